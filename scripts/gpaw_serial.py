"""How the tests' GPAW is built (GPAW_CONFIG): without MPI, so that no MPI's development files are needed."""

mpi = False
compiler = "gcc"
fftw = True
libraries = ["xc", "openblas", "fftw3"]
extra_compile_args = ["-O3", "-fPIC"]
