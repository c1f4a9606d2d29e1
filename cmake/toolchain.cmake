# Can this machine build the native part? Sets no_native to the reason if it cannot, and to nothing if it can; then
# C++ is enabled, Python, nanobind and OpenMP are found, and instruction_sets lists what the compiler knows.
set(no_native "")

if(KMATRIX_NATIVE STREQUAL "OFF")
    set(no_native "it was switched off (KMATRIX_NATIVE=OFF)")
    return()
endif()
if(NOT EXISTS "${csrc}/variant.cpp")
    set(no_native "this source tree has no kernels")
    return()
endif()
if(CMAKE_SYSTEM_NAME STREQUAL "Windows")
    set(no_native "the kernels are not ported to Windows")
    return()
endif()

include(CheckLanguage)
check_language(CXX)  # tries to compile and link, in a project of its own
if(NOT CMAKE_CXX_COMPILER)
    unset(CMAKE_CXX_COMPILER CACHE)  # look again next time
    set(no_native "no working C++ compiler was found")
    return()
endif()
enable_language(CXX)
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "^(GNU|Clang|AppleClang)$")
    set(no_native "the kernels need GCC or Clang, and the compiler is ${CMAKE_CXX_COMPILER_ID}")
    return()
endif()

find_package(Python 3.10 QUIET COMPONENTS Interpreter)
if(Python_VERSION VERSION_GREATER_EQUAL 3.12)
    set(stable_abi Development.SABIModule)
endif()
find_package(Python 3.10 QUIET COMPONENTS Interpreter Development.Module ${stable_abi})
if(NOT Python_Development.Module_FOUND)
    set(no_native "the headers of Python are missing (on Debian: apt install python3-dev)")
    return()
endif()

execute_process(COMMAND "${Python_EXECUTABLE}" -m nanobind --cmake_dir OUTPUT_VARIABLE nanobind_folder
    OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed ERROR_QUIET)
if(failed)
    set(no_native "nanobind is not installed for ${Python_EXECUTABLE}")
    return()
endif()
set(nanobind_DIR "${nanobind_folder}" CACHE PATH "" FORCE)  # an earlier one may have been a temporary environment

find_package(OpenMP QUIET COMPONENTS CXX)
if(NOT OpenMP_CXX_FOUND)
    set(no_native "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} has no OpenMP")
    return()
endif()

# Plain 64-bit x86 means SSE2 only. The second level (SSE4.2, every processor since about 2009, and what the wheels of
# NumPy ask for) gives the kernels byte shuffles and 32-bit multiplications; an older processor runs the portable path.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(flags_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
    set(flags_avx2 -march=x86-64-v3)
    set(flags_baseline -march=x86-64-v2)
    set(known_sets avx512 avx2 baseline)
else()
    set(flags_baseline "")
    set(known_sets baseline)
endif()

function(try_probe name result)
    cmake_parse_arguments(PARSE_ARGV 2 probe "" "" "OPTIONS;LINK")
    if(${result})
        return()  # known from an earlier run
    endif()
    try_compile(${result} "${CMAKE_CURRENT_BINARY_DIR}/probes/${name}" "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/probe.cpp"
        COMPILE_DEFINITIONS ${probe_OPTIONS} LINK_OPTIONS ${probe_LINK} LINK_LIBRARIES OpenMP::OpenMP_CXX
        CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF OUTPUT_VARIABLE said)
    set(${result} ${${result}} PARENT_SCOPE)
    set(probe_said "${said}" PARENT_SCOPE)
endfunction()

set(instruction_sets "")
foreach(isa IN LISTS known_sets)
    try_probe(${isa} kmatrix_can_${isa} OPTIONS ${flags_${isa}})
    if(kmatrix_can_${isa})
        list(APPEND instruction_sets ${isa})
    endif()
endforeach()
if(NOT "baseline" IN_LIST instruction_sets)
    string(REGEX MATCH "error: [^\n]*" first "${probe_said}")
    set(no_native "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION} cannot compile the kernels: ${first}")
    return()
endif()
try_probe(static kmatrix_static_runtime LINK -static-libgcc -static-libstdc++)
