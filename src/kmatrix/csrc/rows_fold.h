// Factors whose d is a power of two below a vector, the weights of an output side by side: y[i, k] is the sum of
// w[i, p] * x[p] over the p with p mod d = k. Products are summed a vector at a time; then J sums are folded into one
// vector of J outputs, each fold halving the lanes that still belong together.
//
// Where c*d fills a vector, J = lanes/d. Where it does not (c a power of two), a vector of weights holds lanes/(c*d)
// outputs, the x are repeated along it, and J = c.
#ifndef KMATRIX_ROWS_FOLD_H
#define KMATRIX_ROWS_FOLD_H

#include "rows_blocks.h"

namespace rows {

// Lanes of `low` and `high` that belong together are H apart: adds them, sums of `low` to the lanes without bit H.
template <class T, int C, int H> KM_INLINE vec<T> folded(vec<T> low, vec<T> high) {
    constexpr int L = numbers_of<T, C>;
    return pick<alternating<H, L>, T, C>(low, high) + pick<alternating_swapped<H, L>, T, C>(low, high);
}

// Folds N sums of distance H into one vector, in place.
template <class T, int C, int H, int N> KM_INLINE void fold(vec<T> *sums) {
    if constexpr (N > 1) {
#pragma GCC unroll 8
        for (int n = 0; n < N / 2; n++) sums[n] = folded<T, C, H>(sums[2 * n], sums[2 * n + 1]);
        fold<T, C, 2 * H, N / 2>(sums);
    }
}

// After the folds a vector is ordered [output within the vector of weights][which vector][k]; outputs want the first
// two exchanged. D and J as above, L numbers a vector.
template <int D, int J, int L> struct in_order {
    static constexpr int at(int n) {
        constexpr int within = L / (D * J);
        const int k = n % D, output = n / D;
        return (output % within * J + output / within) * D + k;
    }
};

// The vector without its first `count` lanes; a select, since a weight there may be infinite.
template <class T> KM_INLINE vec<T> without_first(vec<T> x, int64_t count) {
    vec<T> lane;
    for (int i = 0; i < simd<T>::lanes; i++) lane[i] = T(i);
    return lane >= splat(T(count)) ? x : vec<T>{};
}

// Sums of I outputs for R rows: the weights of an output are `length` reals, its own start every `apart`. What is left
// behind the last whole vector is read as the last vector of the run, less the lanes that were summed before.
template <class S, class T, int C, int I, int R>
KM_INLINE void run_products(const S *const *w, int64_t length, const T *x, int64_t x_row, parts<T, C> (*sum)[I]) {
    constexpr int lanes = simd<T>::lanes;
    int64_t p = 0;
    for (; p + lanes <= length; p += lanes) {
        vec<T> weight[I];
#pragma GCC unroll 8
        for (int i = 0; i < I; i++) weight[i] = load_wide(w[i] + p);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const parts<T, C> value = operand<T, C>(load(x + r * x_row + p));
#pragma GCC unroll 8
            for (int i = 0; i < I; i++) add_product<T, C>(sum[r][i], weight[i], value);
        }
    }
    if (p == length) return;
    const int64_t last = length - lanes, done = p - last;
#pragma GCC unroll 8
    for (int i = 0; i < I; i++) {
        const vec<T> weight = without_first<T>(load_wide(w[i] + last), done);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            add_product<T, C>(sum[r][i], weight, operand<T, C>(without_first<T>(load(x + r * x_row + last), done)));
    }
}

template <class T> KM_INLINE void store_some(T *to, vec<T> value, int64_t count) {
    if (count >= simd<T>::lanes) {
        store(to, value);
    } else {
        for (int64_t i = 0; i < count; i++) to[i] = value[i];
    }
}

// ---- wide: c*d fills a vector. J outputs at w, of which `count` are there (a missing one repeats the last) ----

template <class S, class T, int C, int D, int J, int R>
static void wide_tile(const blocks<S> &f, const S *w, int64_t count, const T *x, int64_t x_row, T *y, int64_t y_row) {
    constexpr int I = J < 4 ? J : 4;
    vec<T> sums[R][J / I] = {};
    for (int q = 0; q * I < J && q * I < count; q++) {
        const S *own[I];
#pragma GCC unroll 8
        for (int i = 0; i < I; i++) own[i] = w + (q * I + i < count ? q * I + i : count - 1) * f.sb;
        parts<T, C> sum[R][I] = {};
        run_products<S, T, C, I, R>(own, f.c * f.d * C, x, x_row, sum);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            vec<T> value[I];
#pragma GCC unroll 8
            for (int i = 0; i < I; i++) value[i] = value_of<T, C>(sum[r][i]);
            fold<T, C, D, I>(value);
            sums[r][q] = value[0];
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        fold<T, C, D * I, J / I>(sums[r]);
        store_some<T>(y + r * y_row, sums[r][0], count * D * C);
    }
}

// The rows from r on, R at a time and the rest with fewer.
template <class S, class T, int C, int D, int J, int R>
KM_INLINE void wide_strip(const blocks<S> &f, const S *w, int64_t count, lines<const T> x, lines<T> y, int64_t n_rows,
                          int64_t r = 0) {
    for (; r + R <= n_rows; r += R)
        wide_tile<S, T, C, D, J, R>(f, w, count, x.data + r * x.row, x.row, y.data + r * y.row, y.row);
    if constexpr (R > 1)
        if (r < n_rows) wide_strip<S, T, C, D, J, R / 2>(f, w, count, x, y, n_rows, r);
}

template <class S, class T, int C, int D>
static void wide_rows(const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                      int64_t n_rows) {
    constexpr int J = numbers_of<T, C> / D, R = (many_registers ? 16 : 8) / (4 * C);
    place at = {begin / f.b, begin % f.b};
    for (int64_t u = begin; u < end;) {
        const int64_t left = left_of(at, f.b, u, end), count = left < J ? left : J;
        const S *w = f.w + at.g * f.sa + at.i * f.sb;
        const lines<const T> x = {from.data + at.g * f.c * D * C, from.row};
        wide_strip<S, T, C, D, J, R>(f, w, count, x, {to.data + u * D * C, to.row}, n_rows);
        u += count;
        at.next(f.b, count);
    }
}

// ---- narrow: a vector of weights holds several outputs of one block; J vectors make a vector of outputs ----

template <class S, class T, int C, int D, int J, int R>
KM_INLINE void narrow_tile(const S *const *w, const int64_t *x_at, const T *x, int64_t x_row, T *y, int64_t y_row,
                           int64_t count) {
    constexpr int L = numbers_of<T, C>;
    vec<T> weight[J];
#pragma GCC unroll 8
    for (int v = 0; v < J; v++) weight[v] = load_wide(w[v]);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        vec<T> sums[J];
#pragma GCC unroll 8
        for (int v = 0; v < J; v++) {
            const vec<T> once = load(x + r * x_row + x_at[v]);
            const vec<T> value = pick<repeated<D * J>, T, C>(once, once);
            sums[v] = value_of<T, C>(product<T, C>(weight[v], operand<T, C>(value)));
        }
        fold<T, C, D, J>(sums);
        store_some<T>(y + r * y_row, pick<in_order<D, J, L>, T, C>(sums[0], sums[0]), count);
    }
}

template <class S, class T, int C, int D, int J>
static void narrow_rows(const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                        int64_t n_rows) {
    constexpr int within = numbers_of<T, C> / (D * J);
    // `begin` and `end` are multiples of `within`: the caller splits at blocks or at multiples of 16.
    place at = {begin / f.b, begin % f.b};
    for (int64_t u = begin; u < end; u += J * within) {
        const S *w[J];
        int64_t x_at[J];
        const int64_t left = end - u < J * within ? end - u : J * within;
#pragma GCC unroll 8
        for (int v = 0; v < J; v++) {
            if (v * within < left) {
                w[v] = f.w + at.g * f.sa + at.i * f.sb;
                x_at[v] = at.g * J * D * C;
                at.next(f.b, within);
            } else {
                w[v] = w[0], x_at[v] = x_at[0];
            }
        }
        int64_t r = 0;
        for (; r + 2 <= n_rows; r += 2)
            narrow_tile<S, T, C, D, J, 2>(w, x_at, from.data + r * from.row, from.row,
                                          to.data + r * to.row + u * D * C, to.row, left * D * C);
        if (r < n_rows)
            narrow_tile<S, T, C, D, J, 1>(w, x_at, from.data + r * from.row, from.row,
                                          to.data + r * to.row + u * D * C, to.row, left * D * C);
    }
}

// ---- which of them ----

template <class S, class T, int C> static bool folds(const blocks<S> &f) {
    constexpr int L = numbers_of<T, C>;
    const int64_t run = f.c * f.d;
    if (!is_power(f.d) || f.d >= L || f.sd != C || f.sc != f.d * C) return false;
    if (run >= L) return true;
    return f.c > 1 && is_power(f.c) && f.sb == run * C && f.b % (L / run) == 0;
}

template <class S, class T, int C, int D>
static void fold_rows_of(const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                         int64_t n_rows) {
    constexpr int L = numbers_of<T, C>;
    if constexpr (D < L) {
        if (f.c * D >= L) return wide_rows<S, T, C, D>(f, begin, end, from, to, n_rows);
        if constexpr (2 * D < L)
            if (f.c == 2) return narrow_rows<S, T, C, D, 2>(f, begin, end, from, to, n_rows);
        if constexpr (4 * D < L)
            if (f.c == 4) return narrow_rows<S, T, C, D, 4>(f, begin, end, from, to, n_rows);
        if constexpr (8 * D < L)
            if (f.c == 8) return narrow_rows<S, T, C, D, 8>(f, begin, end, from, to, n_rows);
    }
}

template <class S, class T, int C>
static void fold_rows(const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                      int64_t n_rows) {
    switch (f.d) {
        case 1: return fold_rows_of<S, T, C, 1>(f, begin, end, from, to, n_rows);
        case 2: return fold_rows_of<S, T, C, 2>(f, begin, end, from, to, n_rows);
        case 4: return fold_rows_of<S, T, C, 4>(f, begin, end, from, to, n_rows);
        default: return fold_rows_of<S, T, C, 8>(f, begin, end, from, to, n_rows);
    }
}

}  // namespace rows

#endif
