// A factor of any shape on a few rows, weights read where they are, features along the lanes.
//
// Kernels share the shapes: `long` (d at least a vector: lanes along d), `fold` (rows_fold.h: d a power of two below
// that and the weights of an output side by side: lanes along c and d, folded at the end), `short` (any other d: lanes
// along d, some idle), `run` (d = 1, few weights side by side). What none of them can read goes number by number.
#ifndef KMATRIX_ROWS_BLOCKS_H
#define KMATRIX_ROWS_BLOCKS_H

#include "kmatrix.h"
#include "rows_lanes.h"

namespace rows {

constexpr bool many_registers = KM_VECTOR_BYTES == 64;
constexpr int most_sums = many_registers ? 16 : 8;  // vectors of sums that fit registers

constexpr int at_most(int most, int n) { return n < most ? n : most; }

template <int N> struct fixed {
    static constexpr int value = N;
};

// A factor in reals of the storage type: strides and `end`, the first address behind its weights.
template <class S> struct blocks {
    const S *w, *end;
    int64_t a, b, c, d;
    int64_t sa, sb, sc, sd;
};

template <class S, int C> static blocks<S> blocks_of(const km_factor &f) {
    const S *w = (const S *)f.w;
    const int64_t sa = f.sa * C, sb = f.sb * C, sc = f.sc * C, sd = f.sd * C;
    const S *end = w + (f.a - 1) * sa + (f.b - 1) * sb + (f.c - 1) * sc + (f.d - 1) * sd + C;
    return {w, end, f.a, f.b, f.c, f.d, sa, sb, sc, sd};
}

// Which block and which output of it; counts along without a division.
struct place {
    int64_t g, i;
    KM_INLINE void next(int64_t b, int64_t count = 1) {
        i += count;
        if (i == b) i = 0, g++;
    }
};

// What is left of this block before `end`, when output u is at `at`.
KM_INLINE int64_t left_of(place at, int64_t b, int64_t u, int64_t end) {
    return b - at.i < end - u ? b - at.i : end - u;
}

// ---- number by number: I outputs at once, whose sums do not wait for each other ----

template <class S, class T, int C, int I>
KM_INLINE void plain_outputs(const blocks<S> &f, const S *w, const T *x, T *y) {
    T sum[I][C] = {};
    for (int64_t j = 0; j < f.c; j++, w += f.sc, x += f.d * C)
#pragma GCC unroll 4
        for (int i = 0; i < I; i++) {
            const S *at = w + i * f.sb;
            if constexpr (C == 1) {
                sum[i][0] += T(widen(at[0])) * x[0];
            } else {
                sum[i][0] += at[0] * x[0] - at[1] * x[1];
                sum[i][1] += at[0] * x[1] + at[1] * x[0];
            }
        }
#pragma GCC unroll 4
    for (int i = 0; i < I; i++)
        for (int p = 0; p < C; p++) y[i * f.d * C + p] = sum[i][p];
}

template <class S, class T, int C>
static void plain_rows(const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                       int64_t n_rows) {
    place at = {begin / f.b, begin % f.b};
    for (int64_t u = begin; u < end;) {
        const int64_t count = left_of(at, f.b, u, end) >= 4 ? 4 : 1;
        for (int64_t r = 0; r < n_rows; r++)
            for (int64_t k = 0; k < f.d; k++) {
                const S *w = f.w + at.g * f.sa + at.i * f.sb + k * f.sd;
                const T *x = from.data + r * from.row + (at.g * f.c * f.d + k) * C;
                T *y = to.data + r * to.row + (u * f.d + k) * C;
                if (count == 4) {
                    plain_outputs<S, T, C, 4>(f, w, x, y);
                } else {
                    plain_outputs<S, T, C, 1>(f, w, x, y);
                }
            }
        u += count;
        at.next(f.b, count);
    }
}

// ---- runs: d is 1 and an output has N weights side by side, N small ----

constexpr int longest_run = 8;

template <class S, class T, int C, int N>
KM_INLINE void run_outputs(const S *w, int64_t apart, const T *x, T *y, int64_t count) {
    T value[N * C];
#pragma GCC unroll 32
    for (int n = 0; n < N * C; n++) value[n] = x[n];
    for (int64_t i = 0; i < count; i++, w += apart) {
        T sum[C] = {};
#pragma GCC unroll 16
        for (int n = 0; n < N; n++) {
            if constexpr (C == 1) {
                sum[0] += T(widen(w[n])) * value[n];
            } else {
                sum[0] += w[2 * n] * value[2 * n] - w[2 * n + 1] * value[2 * n + 1];
                sum[1] += w[2 * n] * value[2 * n + 1] + w[2 * n + 1] * value[2 * n];
            }
        }
        for (int p = 0; p < C; p++) y[i * C + p] = sum[p];
    }
}

template <class S, class T, int C, int N>
static void run_rows_of(const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                        int64_t n_rows) {
    constexpr int64_t once = 64;  // outputs whose weights stay close for all rows
    place at = {begin / f.b, begin % f.b};
    for (int64_t u = begin; u < end;) {
        const int64_t left = left_of(at, f.b, u, end), count = left < once ? left : once;
        const S *w = f.w + at.g * f.sa + at.i * f.sb;
        const T *x = from.data + at.g * N * C;
        T *y = to.data + u * C;
        for (int64_t r = 0; r < n_rows; r++)
            run_outputs<S, T, C, N>(w, f.sb, x + r * from.row, y + r * to.row, count);
        u += count;
        at.next(f.b, count);
    }
}

template <class S, class T, int C, int N = 1>
static void run_rows(const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to, int64_t n_rows) {
    if (f.c == N) return run_rows_of<S, T, C, N>(f, begin, end, from, to, n_rows);
    if constexpr (N < longest_run) run_rows<S, T, C, N + 1>(f, begin, end, from, to, n_rows);
}

// ---- long: y[i, k..] = sum over j of w[i, j, k..] * x[j, k..] ----

// I outputs of R rows, V vectors of each. A tied weight serves all of d, so one output at a time is enough for it.
template <class S, class T, int C, int I, int R, int V, bool TIED>
KM_INLINE void long_tile(const blocks<S> &f, const S *w, const T *x, int64_t x_row, T *y, int64_t y_row) {
    constexpr int lanes = simd<T>::lanes;
    parts<T, C> sum[I][R][V] = {};
    const int64_t step = f.d * C;
    for (int64_t j = 0; j < f.c; j++, w += f.sc, x += step) {
        parts<T, C> value[R][V];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) value[r][v] = operand<T, C>(load(x + r * x_row + v * lanes));
#pragma GCC unroll 4
        for (int i = 0; i < I; i++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                const S *at = w + i * f.sb;
                const vec<T> weight = TIED ? spread<S, T, C>(at) : load_wide(at + v * lanes);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) add_product<T, C>(sum[i][r][v], weight, value[r][v]);
            }
    }
#pragma GCC unroll 4
    for (int i = 0; i < I; i++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                store(y + r * y_row + i * step + v * lanes, value_of<T, C>(sum[i][r][v]));
}

// The rows from r on, R at a time and the rest with fewer.
template <class S, class T, int C, int I, int R, int V, bool TIED>
KM_INLINE void long_strip(const blocks<S> &f, const S *w, lines<const T> x, lines<T> y, int64_t n_rows, int64_t r = 0) {
    for (; r + R <= n_rows; r += R)
        long_tile<S, T, C, I, R, V, TIED>(f, w, x.data + r * x.row, x.row, y.data + r * y.row, y.row);
    if constexpr (R > 1)
        if (r < n_rows) long_strip<S, T, C, I, R / 2, V, TIED>(f, w, x, y, n_rows, r);
}

// I outputs, all of d, V vectors at a time: wide where one row leaves registers for it, since longer runs of weights
// come faster out of far memory. The last vector overlaps the one before: it computes some outputs twice, and alike.
template <class S, class T, int C, int I, int V, bool TIED>
KM_INLINE void long_stretch(const blocks<S> &f, const S *w, lines<const T> x, lines<T> y, int64_t n_rows, int64_t k) {
    constexpr int lanes = simd<T>::lanes, R = at_most(4, most_sums / (I * V * C));
    const int64_t width = f.d * C, step = TIED ? 0 : 1;
    for (; k + V * lanes <= width; k += V * lanes)
        long_strip<S, T, C, I, R, V, TIED>(f, w + k * step, {x.data + k, x.row}, {y.data + k, y.row}, n_rows);
    if (k == width) return;
    if constexpr (V > 1) {
        long_stretch<S, T, C, I, V / 2, TIED>(f, w, x, y, n_rows, k);
    } else {
        k = width - lanes;
        long_strip<S, T, C, I, R, V, TIED>(f, w + k * step, {x.data + k, x.row}, {y.data + k, y.row}, n_rows);
    }
}

template <class S, class T, int C, int I, bool TIED>
static void long_outputs(const blocks<S> &f, const S *w, lines<const T> x, lines<T> y, int64_t n_rows) {
    constexpr int V = at_most(4, most_sums / (I * C));
    if constexpr (V > 1)
        if (n_rows == 1) return long_stretch<S, T, C, I, V, TIED>(f, w, x, y, n_rows, 0);
    long_stretch<S, T, C, I, V == 1 ? 1 : V / 2, TIED>(f, w, x, y, n_rows, 0);
}

template <class S, class T, int C, bool TIED>
static void long_rows(const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                      int64_t n_rows) {
    const int64_t width = f.d * C;
    place at = {begin / f.b, begin % f.b};
    for (int64_t u = begin; u < end;) {
        const int64_t left = left_of(at, f.b, u, end), count = TIED ? 1 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const S *w = f.w + at.g * f.sa + at.i * f.sb;
        const lines<const T> x = {from.data + at.g * f.c * width, from.row};
        const lines<T> y = {to.data + u * width, to.row};
        if (count == 1) {
            long_outputs<S, T, C, 1, TIED>(f, w, x, y, n_rows);
        } else if constexpr (!TIED) {
            if (count == 4) {
                long_outputs<S, T, C, 4, TIED>(f, w, x, y, n_rows);
            } else {
                long_outputs<S, T, C, 2, TIED>(f, w, x, y, n_rows);
            }
        }
        u += count;
        at.next(f.b, count);
    }
}

// ---- short: as long, but d is less than a vector. The lanes beyond d hold garbage, which the next output overwrites;
// the last outputs, and weights whose vector would end behind the weights, go number by number ----

template <class S, class T, int C, int I, int R, bool TIED>
KM_INLINE void short_tile(const blocks<S> &f, const S *w, const T *x, int64_t x_row, T *y, int64_t y_row) {
    parts<T, C> sum[I][R] = {};
    const int64_t step = f.d * C;
    for (int64_t j = 0; j < f.c; j++, w += f.sc, x += step) {
        parts<T, C> value[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) value[r] = operand<T, C>(load(x + r * x_row));
#pragma GCC unroll 4
        for (int i = 0; i < I; i++) {
            const vec<T> weight = TIED ? spread<S, T, C>(w + i * f.sb) : load_wide(w + i * f.sb);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) add_product<T, C>(sum[i][r], weight, value[r]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < I; i++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) store(y + r * y_row + i * step, value_of<T, C>(sum[i][r]));
}

template <class S, class T, int C, int I, bool TIED>
static void short_outputs(const blocks<S> &f, const S *w, lines<const T> x, lines<T> y, int64_t n_rows) {
    constexpr int R = many_registers && C == 1 ? 4 : 2;
    int64_t r = 0;
    for (; r + R <= n_rows; r += R)
        short_tile<S, T, C, I, R, TIED>(f, w, x.data + r * x.row, x.row, y.data + r * y.row, y.row);
    for (; r < n_rows; r++)
        short_tile<S, T, C, I, 1, TIED>(f, w, x.data + r * x.row, x.row, y.data + r * y.row, y.row);
}

template <class S, class T, int C, bool TIED>
static void short_rows(const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                       int64_t n_rows) {
    constexpr int lanes = simd<T>::lanes;
    const int64_t width = f.d * C, careful = end - (lanes + width - 1) / width;
    const int64_t reach = TIED ? 0 : (f.c - 1) * f.sc + lanes;
    place at = {begin / f.b, begin % f.b};
    for (int64_t u = begin; u < end;) {
        const int64_t left = left_of(at, f.b, u, careful);
        // Five are three and two, so that no output is left alone.
        const int64_t count = left > 5 || left == 4 ? 4 : left == 5 ? 3 : left > 0 ? left : 1;
        const S *w = f.w + at.g * f.sa + at.i * f.sb;
        const lines<const T> x = {from.data + at.g * f.c * width, from.row};
        const lines<T> y = {to.data + u * width, to.row};
        if (left <= 0 || f.end - w < (count - 1) * f.sb + reach) {
            plain_rows<S, T, C>(f, u, u + count, from, to, n_rows);
        } else if (count == 4) {
            short_outputs<S, T, C, 4, TIED>(f, w, x, y, n_rows);
        } else if (count == 3) {
            short_outputs<S, T, C, 3, TIED>(f, w, x, y, n_rows);
        } else if (count == 2) {
            short_outputs<S, T, C, 2, TIED>(f, w, x, y, n_rows);
        } else {
            short_outputs<S, T, C, 1, TIED>(f, w, x, y, n_rows);
        }
        u += count;
        at.next(f.b, count);
    }
}

}  // namespace rows

#endif
