# Finds nvcc, enables CUDA, and sets kvg_cuda to whether that went well. Included by the top CMakeLists.txt.
#
#   KVGEAR_CUDA=AUTO  build the plugin where nvcc is found; OFF never; ON: not finding it is an error.
#
# nvcc is looked for in this order: CMAKE_CUDA_COMPILER or CUDACXX, PATH, CUDA_HOME, then the Python wheels that
# core/deps/cuda.sh puts into the folder of the dependencies.
set(KVGEAR_CUDA AUTO CACHE STRING "Build the CUDA plugin: AUTO, ON or OFF")
set_property(CACHE KVGEAR_CUDA PROPERTY STRINGS AUTO ON OFF)
set(KVGEAR_CUDA_ARCHITECTURES "80-real;90-real;90-virtual" CACHE STRING "GPUs that the plugin has code for")
set(kvg_cuda OFF)
if(NOT KVGEAR_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "KVGEAR_CUDA is '${KVGEAR_CUDA}'; it may be AUTO, ON or OFF.")
endif()
if(KVGEAR_CUDA STREQUAL "OFF" OR NOT KVGEAR_SANITIZE STREQUAL "")
  return()
endif()

if(NOT CMAKE_CUDA_COMPILER AND "$ENV{CUDACXX}" STREQUAL "")
  find_program(KVGEAR_NVCC nvcc
    HINTS ENV PATH
    PATHS "$ENV{CUDA_HOME}/bin" "${KVGEAR_DEPS_DIR}/cuda/bin" /usr/local/cuda/bin
    NO_CMAKE_PATH NO_CMAKE_SYSTEM_PATH)
  if(KVGEAR_NVCC)
    set(CMAKE_CUDA_COMPILER "${KVGEAR_NVCC}")
  endif()
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)  # targets have their own
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26 does not know that nvcc has it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
    message(STATUS "CUDA plugin: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.4")
  else()
    set(kvg_cuda ON)
  endif()
endif()
if(kvg_cuda)
  message(STATUS "CUDA plugin: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, ${CMAKE_CUDA_COMPILER}")
elseif(KVGEAR_CUDA STREQUAL "ON")
  message(FATAL_ERROR "KVGEAR_CUDA is ON, but no nvcc of CUDA 12.4 or newer was found on PATH, in CUDA_HOME or in "
    "${KVGEAR_DEPS_DIR}/cuda. core/deps/cuda.sh fetches one.")
else()
  message(STATUS "CUDA plugin: not built, for no nvcc of CUDA 12.4 or newer was found; core/deps/cuda.sh fetches one")
endif()
