// What the native part asks of a compiler: C++17 with vectors, shuffles of them, OpenMP, and a C++ library.
#include <omp.h>

#include <cstdint>
#include <memory>
#include <vector>

typedef float four __attribute__((vector_size(16)));
typedef uint16_t four_halves __attribute__((vector_size(8)));
typedef uint32_t four_words __attribute__((vector_size(16)));

template <int... I> four shuffled(four x) { return __builtin_shufflevector(x, x, I...); }

int main(int count, char **) {
    std::vector<four> all(count);
    const auto shared = std::make_shared<four_halves>();
    if constexpr (sizeof(four) == 16) all[0] = shuffled<1, 0, 3, 2>((four)__builtin_convertvector(*shared, four_words));
#pragma omp parallel for num_threads(2)
    for (int i = 0; i < count; i++) all[i][0] += float(omp_get_thread_num());
    return int(all[0][0]);
}
