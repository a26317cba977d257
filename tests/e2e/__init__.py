"""The whole way from `ray up` to `ray down`, on hosts made of namespaces: `make e2e`, told in docs/e2e.md."""
