// Which instruction set runs here: what the build holds, what the processor offers, what KMATRIX_ISA asks for.
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kmatrix.h"

extern "C" {
extern const km_kernels km_kernels_baseline;
#if defined(KM_WITH_AVX2)
extern const km_kernels km_kernels_avx2;
#endif
#if defined(KM_WITH_AVX512)
extern const km_kernels km_kernels_avx512;
#endif
}

namespace {

struct candidate {
    const km_kernels *kernels;
    bool (*runs_here)();
};

#if defined(__x86_64__)

// Everything -march allows the compiler to use must be there, or a stray instruction kills the process. The builtin
// also asks whether the operating system saves the wide registers; it does not know every flag in every compiler.
bool has_v2() {
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("popcnt");
}

bool ask_v3() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C) || !(c & bit_MOVBE)) return false;
    if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !(c & bit_LZCNT)) return false;
    return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

bool has_v3() {
    static const bool answer = ask_v3();  // cpuid takes microseconds on a virtual machine
    return answer;
}

bool has_v4() {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

#else

bool has_v2() { return true; }  // the baseline of other processors is what every one of them has

#endif

const candidate best_first[] = {
#if defined(KM_WITH_AVX512)
    {&km_kernels_avx512, has_v4},
#endif
#if defined(KM_WITH_AVX2)
    {&km_kernels_avx2, has_v3},
#endif
    {&km_kernels_baseline, has_v2},
};

}  // namespace

const km_kernels *km_kernels_for(const char *name) {
    if (!name || !*name) name = getenv("KMATRIX_ISA");
    for (const candidate &one : best_first) {
        if (name && *name && strcmp(name, one.kernels->isa)) continue;
        if (one.runs_here()) return one.kernels;
    }
    return nullptr;
}

int32_t km_compiled(const char **names, int32_t capacity) {
    int32_t count = 0;
    for (const candidate &one : best_first)
        if (count < capacity) names[count++] = one.kernels->isa;
    return count;
}
