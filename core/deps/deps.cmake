# The two libraries kvgear is built on: Abseil (containers, status, strings) and Highway (SIMD with run-time dispatch).
# By default both are compiled from the sources that core/deps/install.sh fetched, statically, hidden, and only as far as
# something links them. Included by the top CMakeLists.txt, before any target of ours.
option(KVGEAR_SYSTEM_ABSEIL "Use the Abseil installed on this machine instead of the fetched sources" OFF)
option(KVGEAR_SYSTEM_HIGHWAY "Use the Highway installed on this machine instead of the fetched sources" OFF)
set(kvg_deps_default "${CMAKE_SOURCE_DIR}/.deps")
if(NOT "$ENV{KVGEAR_DEPS_DIR}" STREQUAL "")  # where core/deps/install.sh was told to put them
  set(kvg_deps_default "$ENV{KVGEAR_DEPS_DIR}")
endif()
set(KVGEAR_DEPS_DIR "${kvg_deps_default}" CACHE PATH "Folder with abseil-src and highway-src")

# Every target below a folder: no warnings from it, none from its headers, nothing of it visible outside our library.
function(kvg_tame_third_party dir)
  get_directory_property(subdirs DIRECTORY "${dir}" SUBDIRECTORIES)
  foreach(subdir IN LISTS subdirs)
    kvg_tame_third_party("${subdir}")
  endforeach()
  get_directory_property(targets DIRECTORY "${dir}" BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(type ${target} TYPE)
    if(type MATCHES "^(STATIC|OBJECT|INTERFACE)_LIBRARY$")
      get_target_property(includes ${target} INTERFACE_INCLUDE_DIRECTORIES)
      if(includes)
        set_property(TARGET ${target} APPEND PROPERTY INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${includes}")
      endif()
    endif()
    if(type MATCHES "^(STATIC|OBJECT)_LIBRARY$")
      target_compile_options(${target} PRIVATE -w -ffunction-sections -fdata-sections)
      set_target_properties(${target} PROPERTIES
        POSITION_INDEPENDENT_CODE ON
        CXX_VISIBILITY_PRESET hidden
        VISIBILITY_INLINES_HIDDEN ON)
    endif()
  endforeach()
endfunction()

# A function, so that what it sets for the other project does not reach ours.
function(kvg_add_third_party name)
  set(src "${KVGEAR_DEPS_DIR}/${name}-src")
  if(NOT EXISTS "${src}/CMakeLists.txt")
    message(FATAL_ERROR
      "The sources of ${name} are not in ${src}.\n"
      "Run ${CMAKE_SOURCE_DIR}/core/deps/install.sh once; it fetches them (KVGEAR_DEPS_DIR says where to). "
      "Or use an installed copy: -DKVGEAR_SYSTEM_ABSEIL=ON, -DKVGEAR_SYSTEM_HIGHWAY=ON.")
  endif()
  set(BUILD_SHARED_LIBS OFF)
  set(BUILD_TESTING OFF)
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)  # their option() leaves the variables set here alone
  set(CMAKE_POLICY_DEFAULT_CMP0126 NEW)  # and so does their set(... CACHE ...)
  set(CMAKE_MESSAGE_LOG_LEVEL NOTICE)
  set(ABSL_PROPAGATE_CXX_STD ON)
  set(ABSL_ENABLE_INSTALL OFF)
  set(ABSL_BUILD_TESTING OFF)
  set(HWY_ENABLE_CONTRIB OFF)  # its headers (hwy/contrib/math and so on) can be included all the same
  set(HWY_ENABLE_EXAMPLES OFF)
  set(HWY_ENABLE_INSTALL ON)   # off, 1.0.3 still exports what it no longer defines; EXCLUDE_FROM_ALL keeps it out of ours
  set(HWY_ENABLE_TESTS OFF)
  add_subdirectory("${src}" "${CMAKE_BINARY_DIR}/_deps/${name}" EXCLUDE_FROM_ALL)
  kvg_tame_third_party("${src}")
endfunction()

if(KVGEAR_SYSTEM_ABSEIL)
  find_package(absl REQUIRED)
else()
  kvg_add_third_party(abseil)
endif()

if(KVGEAR_SYSTEM_HIGHWAY)
  find_package(hwy QUIET)
  if(hwy_FOUND)
    add_library(kvg_highway INTERFACE)
    target_link_libraries(kvg_highway INTERFACE hwy::hwy)
  else()  # older packages come with a pkg-config file only
    find_package(PkgConfig REQUIRED)
    pkg_check_modules(KVG_HWY REQUIRED IMPORTED_TARGET libhwy)
    add_library(kvg_highway INTERFACE)
    target_link_libraries(kvg_highway INTERFACE PkgConfig::KVG_HWY)
  endif()
else()
  kvg_add_third_party(highway)
  add_library(kvg_highway INTERFACE)
  target_link_libraries(kvg_highway INTERFACE hwy)
endif()
