// Features along the lanes: what the kernels for a few rows share. A complex number takes two neighbouring lanes, so a
// vector holds `numbers_of<T, C>` numbers; positions below count numbers, never lanes.
#ifndef KMATRIX_ROWS_LANES_H
#define KMATRIX_ROWS_LANES_H

#include "simd.h"

namespace rows {

template <class T, int C> constexpr int numbers_of = simd<T>::lanes / C;

constexpr int log2_of(int64_t power) { return __builtin_ctzll(uint64_t(power)); }

constexpr bool is_power(int64_t n) { return n > 0 && !(n & (n - 1)); }

// Rows in the type of the arithmetic; the distance between rows counts reals.
template <class T> struct lines {
    T *data;
    int64_t row;
};

// ---- moving numbers between lanes; `From::at(n)` is the source of number n: in `a`, or from numbers_of on in `b` ----

template <class From, int C, class V, int... I> KM_INLINE V pick_lanes(V a, V b, lane_list<I...>) {
    return __builtin_shufflevector(a, b, (From::at(I / C) * C + I % C)...);
}

template <class From, class T, int C> KM_INLINE vec<T> pick(vec<T> a, vec<T> b) {
    return pick_lanes<From, C>(a, b, typename lanes_below<simd<T>::lanes>::type{});
}

template <int H> struct swapped {  // number n comes from n +- H
    static constexpr int at(int n) { return n ^ H; }
};
template <int H, int L> struct alternating {  // runs of H numbers from a and b in turn
    static constexpr int at(int n) { return n & H ? L + n : n; }
};
template <int H, int L> struct alternating_swapped {
    static constexpr int at(int n) { return n & H ? L + (n ^ H) : n ^ H; }
};
template <int N> struct repeated {  // the first N numbers again and again
    static constexpr int at(int n) { return n % N; }
};

template <int P, class V, int... I> KM_INLINE V twice(V x, lane_list<I...>) {  // part P of each number, in both lanes
    return __builtin_shufflevector(x, x, ((I & ~1) + P)...);
}

template <class V, int... I> KM_INLINE V turned(V x, lane_list<I...>) {
    return __builtin_shufflevector(x, x, (I ^ 1)...);
}

template <class V, int... I> KM_INLINE V minus_plus(lane_list<I...>) {
    return V{(I & 1 ? 1 : -1)...};
}

// ---- sums of products w*x. With complex numbers w * re(x) and w * im(x) are summed apart: then the weights, which
// are many, are used as they lie in memory, and only x and the sum pay for moves between lanes ----

template <class T, int C> struct parts {
    vec<T> part[C];
};

template <class T, int C> KM_INLINE parts<T, C> operand(vec<T> x) {
    if constexpr (C == 1) {
        return {{x}};
    } else {
        typedef typename lanes_below<simd<T>::lanes>::type all;
        return {{twice<0>(x, all{}), twice<1>(x, all{})}};
    }
}

template <class T, int C> KM_INLINE void add_product(parts<T, C> &sum, vec<T> w, parts<T, C> x) {
    sum.part[0] += w * x.part[0];
    if constexpr (C == 2) sum.part[1] += w * x.part[1];
}

template <class T, int C> KM_INLINE parts<T, C> product(vec<T> w, parts<T, C> x) {
    parts<T, C> result;
    result.part[0] = w * x.part[0];
    if constexpr (C == 2) result.part[1] = w * x.part[1];
    return result;
}

template <class T, int C> KM_INLINE vec<T> value_of(parts<T, C> sum) {
    if constexpr (C == 1) {
        return sum.part[0];
    } else {
        typedef typename lanes_below<simd<T>::lanes>::type all;
        return sum.part[0] + minus_plus<vec<T>>(all{}) * turned(sum.part[1], all{});
    }
}

// One number, in every position.
template <class S, class T, int C> KM_INLINE vec<T> spread(const S *number) {
    vec<T> value = splat(T(widen(number[0])));
    if constexpr (C == 2) {
        const T imaginary = T(widen(number[1]));
        for (int lane = 1; lane < simd<T>::lanes; lane += 2) value[lane] = imaginary;
    }
    return value;
}

}  // namespace rows

#endif
