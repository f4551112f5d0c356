# The CUDA backend: the kernels as a library ks_kernels, and KSWEEP_HAVE_CUDA. Needs the CUDA toolkit, cuBLASLt and
# cuDNN 9; KSWEEP_CUDA=AUTO goes without where one is missing, ON refuses. CUDNN_ROOT: where cuDNN is, if not beside
# the toolkit.
set(KSWEEP_CUDA_ARCHITECTURES "80;89;90a" CACHE STRING "GPU architectures that the CUDA backend is compiled for")
set(KSWEEP_HAVE_CUDA OFF)
if(KSWEEP_CUDA STREQUAL "OFF")
  return()
endif()

# Says what is missing, once; an error where CUDA was asked for.
macro(ksweep_no_cuda reason)
  if(KSWEEP_CUDA STREQUAL "ON")
    message(FATAL_ERROR "KSWEEP_CUDA=ON: ${reason}")
  endif()
  message(STATUS "CUDA backend: off, ${reason}")
  return()
endmacro()

find_program(KSWEEP_NVCC nvcc HINTS ENV CUDACXX PATHS /usr/local/cuda/bin)
mark_as_advanced(KSWEEP_NVCC)
if(NOT KSWEEP_NVCC AND NOT CMAKE_CUDA_COMPILER)
  ksweep_no_cuda("nvcc not found")
endif()
if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER ${KSWEEP_NVCC})
endif()
set(CMAKE_CUDA_ARCHITECTURES ${KSWEEP_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
enable_language(CUDA)
find_package(CUDAToolkit QUIET)
if(NOT CUDAToolkit_FOUND)
  ksweep_no_cuda("the CUDA toolkit's libraries were not found")
endif()

# Packages without the development links have the numbered names alone.
find_library(KSWEEP_CUBLASLT NAMES cublasLt libcublasLt.so.13 libcublasLt.so.12 HINTS ${CUDAToolkit_LIBRARY_DIR}
             PATH_SUFFIXES lib64 lib)
find_path(KSWEEP_CUDNN_INCLUDE cudnn.h HINTS ${CUDNN_ROOT} ENV CUDNN_ROOT ${CUDAToolkit_INCLUDE_DIRS}
          PATH_SUFFIXES include)
find_library(KSWEEP_CUDNN NAMES cudnn libcudnn.so.9 HINTS ${CUDNN_ROOT} ENV CUDNN_ROOT ${CUDAToolkit_LIBRARY_DIR}
             PATH_SUFFIXES lib64 lib)
mark_as_advanced(KSWEEP_CUBLASLT KSWEEP_CUDNN_INCLUDE KSWEEP_CUDNN)
if(NOT KSWEEP_CUBLASLT)
  ksweep_no_cuda("cuBLASLt not found")
endif()
if(NOT KSWEEP_CUDNN OR NOT KSWEEP_CUDNN_INCLUDE)
  ksweep_no_cuda("cuDNN not found (set CUDNN_ROOT)")
endif()

add_library(ksweep_cuda INTERFACE)
target_include_directories(ksweep_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS} ${KSWEEP_CUDNN_INCLUDE})
target_link_libraries(ksweep_cuda INTERFACE ${KSWEEP_CUBLASLT} ${KSWEEP_CUDNN} CUDA::cudart)

file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.cu)
add_library(ks_kernels STATIC ${kernels})
target_include_directories(ks_kernels PUBLIC ${PROJECT_SOURCE_DIR}
                           PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
target_link_libraries(ks_kernels PUBLIC ksweep_cuda)
target_compile_options(ks_kernels PRIVATE -Xcompiler=-Wall,-Wextra,-fvisibility=hidden
                       "$<$<BOOL:${KSWEEP_WERROR}>:SHELL:-Werror all-warnings>")
# Noise has the CPU's bits, which are made without fused multiply-adds.
set_source_files_properties(${PROJECT_SOURCE_DIR}/kernels/noise.cu PROPERTIES COMPILE_OPTIONS -fmad=false)
set_target_properties(ks_kernels PROPERTIES CUDA_RUNTIME_LIBRARY Shared)
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)

include(${CMAKE_CURRENT_LIST_DIR}/nccl.cmake)
set(KSWEEP_HAVE_CUDA ON)
message(STATUS "CUDA backend: on, CUDA ${CUDAToolkit_VERSION}, architectures ${KSWEEP_CUDA_ARCHITECTURES}")
