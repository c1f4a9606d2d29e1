// Factors of 2x2 blocks on a few rows, several stages at a time in registers, features along the lanes.
//
// A stage of stride d is y[f] = p[f] x[f] + q[f] x[f XOR d]. Where d is at least a vector, x[f] and x[f XOR d] are two
// vectors and the four weights lie in four runs; where d is smaller they are one vector, and p and q come out of two
// vectors of weights by one move each. Either way the weights are read where they are.
#ifndef KMATRIX_ROWS_BUTTERFLY_H
#define KMATRIX_ROWS_BUTTERFLY_H

#include "kmatrix.h"
#include "rows_lanes.h"

namespace rows {

// Registers decide: 2^max_bits vectors of one row, or half as many of two rows.
constexpr int max_bits = KM_VECTOR_BYTES == 64 ? 4 : 3;

// One factor within a group. The vectors of a block differ in a few bits of the feature index; a weight's address is
// linear in them. Distances count reals of the storage type.
template <class S> struct stage {
    const S *w;
    int kind;   // log2 d inside a vector; inside_kinds + t across bit t of the block
    int shift;  // feature >> shift is the block of the factor
    int64_t mask, block, step;  // feature & mask is the place in it; how far w moves per block and per place
    int64_t row, column;        // from w00 to w10 and to w01
    int64_t bit[max_bits];      // how far w moves with each bit
};

// The features that one group works on: `first` runs over the vectors that have none of the bits.
struct span {
    int64_t vectors, mask;
    int64_t bit[max_bits];  // in reals
    int64_t ordered;        // reals of weights that a block uses, if they lie in order of use (rows_ordered.h); or 0
};

constexpr int inside_kinds = 4;

template <int H, int L> struct straight {  // w00 and w11 of each 2x2 block
    static constexpr int at(int n) { return n / (2 * H) * 4 * H + (n & H ? 3 * H : 0) + n % H; }
};
template <int H, int L> struct crossed {  // w01 and w10
    static constexpr int at(int n) { return n / (2 * H) * 4 * H + (n & H ? 2 * H : H) + n % H; }
};

// How far the vector `index` of a block lies from its first, given the distances of the bits.
template <int K> KM_INLINE int64_t distance(const int64_t *bit, int index) {
    int64_t sum = 0;
#pragma GCC unroll 4
    for (int t = 0; t < K; t++)
        if (index >> t & 1) sum += bit[t];
    return sum;
}

// Registers of 64 bytes have a move of 16-bit numbers across all of it (AVX512BW); narrower ones do not.
constexpr bool one_move_of_bfloat16 = KM_VECTOR_BYTES == 64;

template <int H, int L> struct straight_and_crossed {
    static constexpr int at(int n) { return n & 1 ? crossed<H, L>::at(n / 2) : straight<H, L>::at(n / 2); }
};

// All the weights of a vector are one register of bfloat16: one move puts p and q into the halves of each word.
template <int H> KM_INLINE void sort_weights_of_bfloat16(const bfloat16 *at, vec<float> &p, vec<float> &q) {
    constexpr int L = simd<float>::lanes;
    typedef uint16_t numbers __attribute__((vector_size(KM_VECTOR_BYTES)));
    typedef uint16_t anywhere __attribute__((vector_size(KM_VECTOR_BYTES), aligned(2), may_alias));
    const numbers all = (numbers)*(const anywhere *)at;
    typedef typename lanes_below<2 * L>::type lanes;
    const words sorted = (words)pick_lanes<straight_and_crossed<H, L>, 1>(all, all, lanes{});
    p = (vec<float>)(sorted << 16);
    q = (vec<float>)(sorted & 0xffff0000);
}

// The factors p of x[f] and q of x[f XOR H] out of two vectors of weights.
template <class S, class T, int C, int H> KM_INLINE void sort_weights(const S *at, vec<T> &p, vec<T> &q) {
    constexpr int L = numbers_of<T, C>;
    if constexpr (one_move_of_bfloat16 && __is_same(S, bfloat16)) {
        sort_weights_of_bfloat16<H>(at, p, q);
    } else {
        const vec<T> first = load_wide(at), second = load_wide(at + simd<T>::lanes);
        p = pick<straight<H, L>, T, C>(first, second);
        q = pick<crossed<H, L>, T, C>(first, second);
    }
}

template <class S, class T, int C, int K, int R, int H>
KM_INLINE void stage_inside(const stage<S> &s, const S *w, vec<T> *x) {
    constexpr int vectors = 1 << K;
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) {
        vec<T> p, q;
        sort_weights<S, T, C, H>(w + distance<K>(s.bit, v), p, q);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            vec<T> &value = x[r * vectors + v];
            parts<T, C> sum = product<T, C>(p, operand<T, C>(value));
            add_product<T, C>(sum, q, operand<T, C>(pick<swapped<H>, T, C>(value, value)));
            value = value_of<T, C>(sum);
        }
    }
}

template <class S, class T, int C, int K, int R, int B>
KM_INLINE void stage_across(const stage<S> &s, const S *w, vec<T> *x) {
    constexpr int vectors = 1 << K;
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) {
        if (v >> B & 1) continue;
        const S *at = w + distance<K>(s.bit, v);
        const vec<T> w00 = load_wide(at), w01 = load_wide(at + s.column);
        const vec<T> w10 = load_wide(at + s.row), w11 = load_wide(at + s.row + s.column);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            vec<T> &low = x[r * vectors + v], &high = x[r * vectors + (v | 1 << B)];
            const parts<T, C> first = operand<T, C>(low), second = operand<T, C>(high);
            parts<T, C> sum = product<T, C>(w00, first);
            add_product<T, C>(sum, w01, second);
            low = value_of<T, C>(sum);
            sum = product<T, C>(w10, first);
            add_product<T, C>(sum, w11, second);
            high = value_of<T, C>(sum);
        }
    }
}

template <class S, class T, int C, int K, int R, int KIND>
KM_INLINE void stage_of_kind(const stage<S> &s, const S *w, vec<T> *x) {
    if constexpr (KIND >= inside_kinds) {
        if constexpr (KIND - inside_kinds < K) stage_across<S, T, C, K, R, KIND - inside_kinds>(s, w, x);
    } else if constexpr (2 << KIND <= numbers_of<T, C>) {
        stage_inside<S, T, C, K, R, 1 << KIND>(s, w, x);
    }
}

// All stages on the block of vectors at `first`, one of a `number`, for R rows.
template <class S, class T, int C, int K, int R>
KM_INLINE void run_block(const stage<S> *stages, int count, const span &at, int64_t first, int64_t number,
                         const T *from, int64_t from_row, T *to, int64_t to_row) {
    constexpr int vectors = 1 << K;
    vec<T> x[R * vectors];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) x[r * vectors + v] = load(from + r * from_row + distance<K>(at.bit, v));
    for (int i = 0; i < count; i++) {
        const stage<S> &s = stages[i];
        const S *w = s.w + (at.ordered ? number * at.ordered : (first >> s.shift) * s.block + (first & s.mask) * s.step);
        switch (s.kind) {
            case 0: stage_of_kind<S, T, C, K, R, 0>(s, w, x); break;
            case 1: stage_of_kind<S, T, C, K, R, 1>(s, w, x); break;
            case 2: stage_of_kind<S, T, C, K, R, 2>(s, w, x); break;
            case 3: stage_of_kind<S, T, C, K, R, 3>(s, w, x); break;
            case 4: stage_of_kind<S, T, C, K, R, 4>(s, w, x); break;
            case 5: stage_of_kind<S, T, C, K, R, 5>(s, w, x); break;
            case 6: stage_of_kind<S, T, C, K, R, 6>(s, w, x); break;
            default: stage_of_kind<S, T, C, K, R, 7>(s, w, x); break;
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) store(to + r * to_row + distance<K>(at.bit, v), x[r * vectors + v]);
}

// How many blocks begin before vector v, the first of one.
static int64_t blocks_before(int64_t v, int64_t mask) {
    int64_t number = 0;
    for (int to = 0; v; v >>= 1, mask >>= 1)
        if (!(mask & 1)) number |= (v & 1) << to++;
    return number;
}

// The blocks of the vectors from .. to - 1; a block belongs to its first vector.
template <class S, class T, int C, int K, int R>
static void run_blocks(const stage<S> *stages, int count, const span &at, int64_t begin, int64_t end,
                       lines<const T> from, lines<T> to, int64_t n_rows) {
    constexpr int L = numbers_of<T, C>;
    const int64_t start = (((begin - 1) | at.mask) + 1) & ~at.mask;
    int64_t number = blocks_before(start, at.mask);
    for (int64_t v = start; v < end; v = ((v | at.mask) + 1) & ~at.mask, number++) {
        const int64_t first = v * L;
        const T *x = from.data + first * C;
        T *y = to.data + first * C;
        int64_t r = 0;
        for (; r + R <= n_rows; r += R)
            run_block<S, T, C, K, R>(stages, count, at, first, number, x + r * from.row, from.row, y + r * to.row,
                                     to.row);
        if constexpr (R > 1)
            for (; r < n_rows; r++)
                run_block<S, T, C, K, 1>(stages, count, at, first, number, x + r * from.row, from.row, y + r * to.row,
                                         to.row);
    }
}

template <class S, class T, int C, int K>
static void run_group(const stage<S> *stages, int count, const span &at, int64_t begin, int64_t end,
                      lines<const T> from, lines<T> to, int64_t n_rows) {
    if constexpr (K < max_bits)
        if (n_rows > 1) return run_blocks<S, T, C, K, 2>(stages, count, at, begin, end, from, to, n_rows);
    run_blocks<S, T, C, K, 1>(stages, count, at, begin, end, from, to, n_rows);
}

}  // namespace rows

#endif
