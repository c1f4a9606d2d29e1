// Sums over the lanes of many vectors at once: what turns one accumulator a weight into one number a weight.
#ifndef KMATRIX_LANE_SUMS_H
#define KMATRIX_LANE_SUMS_H

#include "simd.h"

// Quarter i holds the sum of the quarters of v[i * step].
template <class T> KM_INLINE vec<T> sums_of_quarters(const vec<T> *v, int step) {
    typedef all_lanes<T> every;
    constexpr int q = quarter<T>;
    if constexpr (quarters<T> == 1) {
        return v[0];
    } else if constexpr (quarters<T> == 2) {
        return halves_of<q, 0>(v[0], v[step], every{}) + halves_of<q, 1>(v[0], v[step], every{});
    } else {
        const vec<T> *w = v + 2 * step;
        const vec<T> low = join<q, 0, 1>(v[0], v[step], every{}) + join<q, 2, 3>(v[0], v[step], every{});
        const vec<T> high = join<q, 0, 1>(w[0], w[step], every{}) + join<q, 2, 3>(w[0], w[step], every{});
        return join<q, 0, 2>(low, high, every{}) + join<q, 1, 3>(low, high, every{});
    }
}

// Lane i of the result is the sum of the lanes of v[i].
template <class T> KM_INLINE vec<T> lane_sums(const vec<T> *v) {
    typedef all_lanes<T> every;
    constexpr int q = quarter<T>;
    vec<T> part[q];
#pragma GCC unroll 4
    for (int j = 0; j < q; j++) part[j] = sums_of_quarters<T>(v + j, q);
    if constexpr (q == 2) {
        return interleave<2, 1, false>(part[0], part[1], every{}) + interleave<2, 1, true>(part[0], part[1], every{});
    } else {
        const auto pairs = [](vec<T> x, vec<T> y) {
            return interleave<4, 1, false>(x, y, every{}) + interleave<4, 1, true>(x, y, every{});
        };
        const vec<T> low = pairs(part[0], part[1]), high = pairs(part[2], part[3]);
        return interleave<4, 2, false>(low, high, every{}) + interleave<4, 2, true>(low, high, every{});
    }
}

// Adds the sums over the lanes of N vectors, a multiple of the lanes, to N numbers.
template <class T, int N> KM_INLINE void add_lane_sums(const vec<T> *v, T *to) {
    constexpr int lanes = simd<T>::lanes;
#pragma GCC unroll 8
    for (int i = 0; i < N; i += lanes) store(to + i, load(to + i) + lane_sums<T>(v + i));
}

#endif
