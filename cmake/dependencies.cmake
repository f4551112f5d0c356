# Found, never vendored. jobs/setup.sh installs Debian's and Ubuntu's packages of all of them.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
set(HDF5_PREFER_PARALLEL OFF)
find_package(HDF5 REQUIRED COMPONENTS C)
find_package(BLAS REQUIRED)
find_package(PNG REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
pkg_check_modules(CJSON REQUIRED IMPORTED_TARGET libcjson)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(FONTCONFIG REQUIRED IMPORTED_TARGET fontconfig)
pkg_check_modules(FREETYPE REQUIRED IMPORTED_TARGET freetype2)
if(KSWEEP_TESTS)
  pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
endif()

# The C API of HDF5 and MPI as targets (FindHDF5 before CMake 3.19 had none; distributions differ in what they set).
add_library(ksweep_hdf5 INTERFACE)
target_include_directories(ksweep_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS} ${HDF5_INCLUDE_DIRS})
target_link_libraries(ksweep_hdf5 INTERFACE ${HDF5_C_LIBRARIES})

# ULFM, an MPI that lets the other ranks go on when one has died: Open MPI 5 with its header of extensions.
include(CheckSymbolExists)
set(CMAKE_REQUIRED_LIBRARIES MPI::MPI_C)
check_symbol_exists(MPIX_Comm_shrink "mpi.h;mpi-ext.h" KSWEEP_HAVE_ULFM)
unset(CMAKE_REQUIRED_LIBRARIES)

# CBLAS comes with the BLAS (OpenBLAS, MKL, BLIS, AOCL all carry it); its header is in a folder of the BLAS' own on some.
find_path(CBLAS_INCLUDE_DIR cblas.h PATH_SUFFIXES openblas openblas-pthread blis flexiblas
          HINTS /usr/include/x86_64-linux-gnu /usr/include/aarch64-linux-gnu)
if(NOT CBLAS_INCLUDE_DIR)
  message(FATAL_ERROR "cblas.h not found: install libopenblas-dev, or set CBLAS_INCLUDE_DIR")
endif()
add_library(ksweep_cblas INTERFACE)
target_include_directories(ksweep_cblas SYSTEM INTERFACE ${CBLAS_INCLUDE_DIR})
target_link_libraries(ksweep_cblas INTERFACE BLAS::BLAS)
