# KSWEEP_PYTHON: the first python3 with what the tests import. Debian's packages are for /usr/bin's, which need not be the first in PATH.
function(ksweep_python_has_packages result python)
  execute_process(COMMAND ${python} -c "import h5py, jsonschema, numpy, PIL" RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
  if(failed)
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()
find_program(KSWEEP_PYTHON python3 PATHS /usr/bin NO_DEFAULT_PATH VALIDATOR ksweep_python_has_packages)
find_program(KSWEEP_PYTHON python3 VALIDATOR ksweep_python_has_packages)
find_program(KSWEEP_PYTHON python3) # the tests say what it lacks
