// Which factors of 2x2 blocks run together, and where their weights lie.
#ifndef KMATRIX_ROWS_GROUPS_H
#define KMATRIX_ROWS_GROUPS_H

#include "rows_butterfly.h"

namespace rows {

constexpr int max_stages = 32;

template <class S> struct group {
    stage<S> stages[max_stages];
    int count, n_bits;
    int bits[max_bits];
    span at;
};

template <class T, int C> static bool is_stage(const km_factor &f) {
    return f.b == 2 && f.c == 2 && is_power(f.d) && f.a * f.d * 2 % numbers_of<T, C> == 0;
}

// Weights whose runs do not fill vectors, or that are tied, are written out: one vector's worth where all are alike.
// Their number, in reals; 0 if they are read where they are.
template <class T, int C> static int64_t copied(const km_factor &f) {
    constexpr int L = numbers_of<T, C>;
    if (!is_stage<T, C>(f)) return 0;
    const bool by_step = f.d == 1 || f.sd == 1;
    if (f.d >= L) return by_step ? 0 : f.sd == 0 ? (f.sa || f.a == 1 ? f.a : 1) * 4 * L * C : f.a * 4 * f.d * C;
    const bool block_is_run = by_step && f.sc == f.d && f.sb == 2 * f.d;
    const bool alike = f.a == 1 || f.sa == 0;
    if (block_is_run && (f.a == 1 || f.sa == 4 * f.d || 2 * f.d == L)) return 0;
    return alike ? 2 * L * C : f.a * 4 * f.d * C;
}

template <class S, int C>
KM_INLINE void copy_number(const km_factor &f, int64_t g, int64_t i, int64_t j, int64_t k, S *to) {
    const S *from = (const S *)f.w + (g * f.sa + i * f.sb + j * f.sc + k * f.sd) * C;
    for (int p = 0; p < C; p++) to[p] = from[p];
}

// The stage of a factor but for its bits. Copies weights to `spare` where it must, and moves it on.
template <class S, class T, int C> static stage<S> stage_of(const km_factor &f, S *&spare) {
    constexpr int L = numbers_of<T, C>;
    stage<S> s = {};
    s.shift = log2_of(f.d) + 1;
    s.mask = f.d - 1;
    const int64_t numbers = copied<T, C>(f) / C;
    if (!numbers) {
        s.w = (const S *)f.w;
        s.block = f.a == 1 ? 0 : f.sa * C;
        s.step = C;
        s.row = f.sb * C, s.column = f.sc * C;
        return s;
    }
    // As if it were (a, 2, 2, width): all of d, or a vector of copies of the one weight that is tied along it.
    const bool one_step = f.d >= L && f.sd == 0;
    const int64_t width = one_step ? L : f.d, n_blocks = numbers / (4 * width);
    for (int64_t g = 0; g < n_blocks; g++)
        for (int64_t n = 0; n < 4 * width; n++)
            copy_number<S, C>(f, f.sa && f.a > 1 ? g : 0, n / width / 2, n / width % 2, one_step ? 0 : n % width,
                              spare + (g * 4 * width + n) * C);
    s.w = spare;
    s.block = f.a == 1 || f.sa == 0 ? 0 : 4 * width * C;
    s.step = one_step ? 0 : C;
    s.row = 2 * width * C, s.column = width * C;
    spare += numbers * C;
    return s;
}

template <class T, int C> static void add_bit(int bit, int *bits, int *n_bits) {
    int at = *n_bits;
    for (; at > 0 && bits[at - 1] > bit; at--) bits[at] = bits[at - 1];
    bits[at] = bit;
    ++*n_bits;
}

static bool has_bit(int bit, const int *bits, int n_bits) {
    for (int t = 0; t < n_bits; t++)
        if (bits[t] == bit) return true;
    return false;
}

// The longest group that starts at factor `first`, with at most `most` bits; its length, 0 if that is no stage.
template <class S, class T, int C> static int find_group(const km_chain *chain, int first, int most, group<S> *out) {
    constexpr int L = numbers_of<T, C>;
    out->n_bits = 0;
    int count = 0;
    for (; first + count < chain->n_factors && count < max_stages; count++) {
        const km_factor &f = chain->factors[first + count];
        if (!is_stage<T, C>(f)) break;
        const int bit = log2_of(f.d) - log2_of(L);
        if (bit < 0 || has_bit(bit, out->bits, out->n_bits)) continue;
        if (out->n_bits == most) break;
        add_bit<T, C>(bit, out->bits, &out->n_bits);
    }
    return out->count = count;
}

template <class S, class T, int C>
static void fill_group(const km_chain *chain, int first, group<S> *out, S *spare) {
    constexpr int L = numbers_of<T, C>;
    const km_factor &any = chain->factors[first];
    out->at.vectors = any.a * any.d * 2 / L;
    out->at.mask = out->at.ordered = 0;
    for (int t = 0; t < out->n_bits; t++) {
        out->at.mask |= int64_t(1) << out->bits[t];
        out->at.bit[t] = int64_t(L * C) << out->bits[t];
    }
    for (int i = 0; i < out->count; i++) {
        const km_factor &f = chain->factors[first + i];
        stage<S> &s = out->stages[i];
        s = stage_of<S, T, C>(f, spare);
        s.kind = log2_of(f.d);
        for (int t = 0; t < out->n_bits; t++) {
            const int64_t features = int64_t(L) << out->bits[t];
            if (features == f.d) s.kind = inside_kinds + t;
            s.bit[t] = features < f.d ? features * s.step : (features >> s.shift) * s.block;
        }
    }
}

template <class S, class T, int C>
static void run_found(const group<S> &found, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                      int64_t n_rows) {
    switch (found.n_bits) {
        case 0: return run_group<S, T, C, 0>(found.stages, found.count, found.at, begin, end, from, to, n_rows);
        case 1: return run_group<S, T, C, 1>(found.stages, found.count, found.at, begin, end, from, to, n_rows);
        case 2: return run_group<S, T, C, 2>(found.stages, found.count, found.at, begin, end, from, to, n_rows);
        case 3: return run_group<S, T, C, 3>(found.stages, found.count, found.at, begin, end, from, to, n_rows);
        default:
            if constexpr (max_bits > 3)
                run_group<S, T, C, 4>(found.stages, found.count, found.at, begin, end, from, to, n_rows);
    }
}

}  // namespace rows

#endif
