# Writes the commit into OUTPUT, and only when it differs from what stands there, so that nothing is rebuilt for
# nothing. Run at every build: cmake -DSOURCE=... -DOUTPUT=... -P commit.cmake
cmake_minimum_required(VERSION 3.25)
set(commit unknown)
if(EXISTS ${SOURCE}/.git)
  # The checkout may belong to another user than the one who builds.
  set(git git -c safe.directory=${SOURCE} --no-optional-locks -C ${SOURCE})
  execute_process(COMMAND ${git} describe --always --abbrev=12 --exclude=* --dirty
    OUTPUT_VARIABLE described RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT failed)
    set(commit ${described})
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define ANNULUS_COMMIT \"@commit@\"\n" @ONLY)
