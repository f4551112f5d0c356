# NCCL for networks on several GPUs: the target ksweep_nccl and KSWEEP_HAVE_NCCL. KSWEEP_NCCL=AUTO goes without where it is
# missing, ON refuses. NCCL_ROOT: a folder with include/nccl.h and lib/libnccl.so (or lib/libnccl.so.2, as in the wheels of
# PyPI), if it is neither beside the CUDA toolkit nor with the system's libraries.
set(KSWEEP_HAVE_NCCL OFF)
if(KSWEEP_NCCL STREQUAL "OFF")
  return()
endif()

find_path(KSWEEP_NCCL_INCLUDE nccl.h HINTS ${NCCL_ROOT} ENV NCCL_ROOT ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
find_library(KSWEEP_NCCL_LIBRARY NAMES nccl libnccl.so.2 NAMES_PER_DIR HINTS ${NCCL_ROOT} ENV NCCL_ROOT
             ${CUDAToolkit_LIBRARY_DIR}
             PATH_SUFFIXES lib64 lib)
mark_as_advanced(KSWEEP_NCCL_INCLUDE KSWEEP_NCCL_LIBRARY)

# Communicators that do not block came with 2.14.
set(nccl_problem "")
if(NOT KSWEEP_NCCL_INCLUDE OR NOT KSWEEP_NCCL_LIBRARY)
  set(nccl_problem "not found (set NCCL_ROOT)")
else()
  file(STRINGS ${KSWEEP_NCCL_INCLUDE}/nccl.h nccl_numbers REGEX "^#define NCCL_(MAJOR|MINOR|PATCH) +[0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" nccl_numbers "${nccl_numbers}")
  list(JOIN nccl_numbers "." nccl_version)
  if(nccl_version VERSION_LESS 2.14)
    set(nccl_problem "${nccl_version} in ${KSWEEP_NCCL_INCLUDE} is too old: 2.14 is needed")
  endif()
endif()
if(nccl_problem)
  if(KSWEEP_NCCL STREQUAL "ON")
    message(FATAL_ERROR "KSWEEP_NCCL=ON: NCCL ${nccl_problem}")
  endif()
  message(STATUS "networks on several GPUs: off, NCCL ${nccl_problem}")
  return()
endif()

add_library(ksweep_nccl INTERFACE)
target_include_directories(ksweep_nccl SYSTEM INTERFACE ${KSWEEP_NCCL_INCLUDE})
target_link_libraries(ksweep_nccl INTERFACE ${KSWEEP_NCCL_LIBRARY})
set(KSWEEP_HAVE_NCCL ON)
message(STATUS "networks on several GPUs: on, NCCL ${nccl_version}")
