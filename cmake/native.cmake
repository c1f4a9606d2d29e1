# The module kmatrix._native: the kernels once for each instruction set, and what chooses and binds them.
find_package(nanobind CONFIG REQUIRED)

set(release_flags -O3)
set(quiet "")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(quiet -Wno-maybe-uninitialized)  # GCC's own headers: "_mm512_undefined_ps" is meant to be undefined
endif()
set(sanitizers "")
if(KMATRIX_SANITIZE)
    set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
    set(release_flags -O1 -g ${sanitizers})
endif()

# The module knows the sources it was built from: beside others it is not used. sources_digest() in
# ops/native_module.py computes the same, from a line "name digest" for each file, sorted by name.
file(GLOB sources CONFIGURE_DEPENDS "${csrc}/*.h" "${csrc}/*.cpp")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${sources})
list(SORT sources)
set(described "")
foreach(source IN LISTS sources)
    get_filename_component(name "${source}" NAME)
    file(SHA256 "${source}" digest)
    string(APPEND described "${name} ${digest}\n")
endforeach()
string(SHA256 sources_digest "${described}")
configure_file("${CMAKE_CURRENT_LIST_DIR}/sources.cpp.in" "${CMAKE_CURRENT_BINARY_DIR}/sources.cpp" @ONLY)

# NB_STATIC: nanobind inside the module. STABLE_ABI: one module for every Python from 3.12; without effect before.
nanobind_add_module(_native NB_STATIC STABLE_ABI NOMINSIZE NOSTRIP
    "${csrc}/bindings.cpp" "${csrc}/dispatch.cpp" "${csrc}/fingerprint.cpp"
    "${CMAKE_CURRENT_BINARY_DIR}/sources.cpp")

foreach(isa IN LISTS instruction_sets)
    add_library(kernels_${isa} OBJECT "${csrc}/variant.cpp")
    target_compile_definitions(kernels_${isa} PRIVATE KM_ISA=${isa})
    target_compile_options(kernels_${isa} PRIVATE ${release_flags} ${flags_${isa}} -fno-exceptions -fno-rtti
        -Wall -Wextra ${quiet} ${OpenMP_CXX_FLAGS})
    target_include_directories(kernels_${isa} PRIVATE ${OpenMP_CXX_INCLUDE_DIRS})
    set_target_properties(kernels_${isa} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_STANDARD 17
        CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
    target_sources(_native PRIVATE $<TARGET_OBJECTS:kernels_${isa}>)
    string(TOUPPER ${isa} upper)
    target_compile_definitions(_native PRIVATE KM_WITH_${upper})
endforeach()

set_target_properties(_native PROPERTIES CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
target_compile_options(_native PRIVATE ${release_flags} -Wall -Wextra)

# libgomp stays a plain shared library, found by its name: that of torch, which is loaded first, serves both, and its
# threads are shared. The C++ runtime is linked in where it can be: torch brings its own, of another age.
target_link_libraries(_native PRIVATE OpenMP::OpenMP_CXX)
target_link_options(_native PRIVATE ${sanitizers})
if(kmatrix_static_runtime AND NOT KMATRIX_SANITIZE)
    target_link_options(_native PRIVATE -static-libgcc -static-libstdc++)
endif()
if(NOT APPLE)
    target_link_options(_native PRIVATE LINKER:--exclude-libs,ALL)
endif()

if(KMATRIX_INPLACE)
    set_target_properties(_native PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${KMATRIX_INPLACE}")
else()
    install(TARGETS _native LIBRARY DESTINATION kmatrix)
endif()
