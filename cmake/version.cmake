# version.h with the git revision, made anew at every build (and only touched when it changes).
set(KSWEEP_VERSION_HEADER ${PROJECT_BINARY_DIR}/generated/ksweep_version.h)
add_custom_target(ksweep_version BYPRODUCTS ${KSWEEP_VERSION_HEADER}
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DVERSION=${PROJECT_VERSION}
          -DOUTPUT=${KSWEEP_VERSION_HEADER} -P ${PROJECT_SOURCE_DIR}/cmake/write_version.cmake
  VERBATIM)
