"""The kernels in Triton. Imported only where one of them runs; see `kernels.dispatch`."""
