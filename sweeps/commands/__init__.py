"""The sub-commands of `prx-sweeps`, a module each; `sweeps.main` lists them. `encode` lives with what it runs."""
