// The passes of a tile: what happens to its lines between load and store. All lanes do the same with different rows,
// so a weight is one number, broadcast, and no pass ever moves numbers across lanes.
#ifndef KMATRIX_PASSES_H
#define KMATRIX_PASSES_H

#include "packing.h"

// ---- 2x2 factors: 2^K features stay in registers through all stages of the pass ----

template <class T, int C> KM_INLINE void twist(const T *w, const vec<T> *x, vec<T> *out) {
    if constexpr (C == 1) {
        out[0] = w[0] * x[0];
    } else {
        out[0] = w[0] * x[0] - w[1] * x[1];
        out[1] = w[0] * x[1] + w[1] * x[0];
    }
}

// out = p*x + q*y
template <class T, int C> KM_INLINE void combine(const T *p, const vec<T> *x, const T *q, const vec<T> *y, vec<T> *out) {
    if constexpr (C == 1) {
        out[0] = p[0] * x[0] + q[0] * y[0];
    } else {
        out[0] = p[0] * x[0] - p[1] * x[1] + q[0] * y[0] - q[1] * y[1];
        out[1] = p[0] * x[1] + p[1] * x[0] + q[0] * y[1] + q[1] * y[0];
    }
}

// One 2x2 block on the features x and y, in place.
template <class T, int C, int FORM> KM_INLINE void butterfly(const T *w, vec<T> *x, vec<T> *y) {
    vec<T> low[C], high[C];
    if constexpr (FORM == GENERAL) {
        combine<T, C>(w, x, w + C, y, low);
        combine<T, C>(w + 2 * C, x, w + 3 * C, y, high);
    } else {
        vec<T> turned[C];
        if constexpr (FORM == TWIST_IN) {
            twist<T, C>(w, y, turned);
        } else {
            for (int p = 0; p < C; p++) turned[p] = y[p];
        }
        for (int p = 0; p < C; p++) low[p] = x[p] + turned[p], high[p] = x[p] - turned[p];
        if constexpr (FORM == TWIST_OUT) {  // not w*(x - y), whose difference may overflow
            T opposite[C];
            for (int p = 0; p < C; p++) opposite[p] = -w[p];
            combine<T, C>(w, x, opposite, y, high);
        }
    }
    for (int p = 0; p < C; p++) x[p] = low[p], y[p] = high[p];
}

template <class T, int C, int K, int SHIFT, int FORM> KM_INLINE const T *stage_of(const T *w, vec<T> *x) {
    constexpr int numbers = C * (FORM == GENERAL ? 4 : FORM == PLUS_MINUS ? 0 : 1);
#pragma GCC unroll 8
    for (int pair = 0; pair < 1 << (K - 1); pair++) {
        const int low = ((pair >> SHIFT) << (SHIFT + 1)) | (pair & ((1 << SHIFT) - 1));
        butterfly<T, C, FORM>(w + pair * numbers, x + low * C, x + (low | 1 << SHIFT) * C);
    }
    return w + numbers * (1 << (K - 1));
}

template <class T, int C, int K, int SHIFT> KM_INLINE const T *stage_at(int form, const T *w, vec<T> *x) {
    switch (form) {
        case GENERAL: return stage_of<T, C, K, SHIFT, GENERAL>(w, x);
        case TWIST_IN: return stage_of<T, C, K, SHIFT, TWIST_IN>(w, x);
        case TWIST_OUT: return stage_of<T, C, K, SHIFT, TWIST_OUT>(w, x);
        default: return stage_of<T, C, K, SHIFT, PLUS_MINUS>(w, x);
    }
}

template <class T, int C, int K> KM_INLINE const T *stage(int shift, int form, const T *w, vec<T> *x) {
    if constexpr (K > 3)
        if (shift == 3) return stage_at<T, C, K, 3>(form, w, x);
    if constexpr (K > 2)
        if (shift == 2) return stage_at<T, C, K, 2>(form, w, x);
    if constexpr (K > 1)
        if (shift == 1) return stage_at<T, C, K, 1>(form, w, x);
    return stage_at<T, C, K, 0>(form, w, x);
}

// Where the first pass takes its features from and the last one leaves them: a line of the tile, or, spared one way
// through memory, rows of the user's matrix, transposed in registers. `group` is the first feature, one of `C` parts.
template <class T, int C> struct in_lines {
    T *tile;
    int64_t width, stride; // between features of a group

    template <int FEATURES> KM_INLINE void load_group(int64_t group, int64_t r, vec<T> *x) const {
        const T *at = tile + group * C * width + r;
        const int64_t step = stride * C * width;
#pragma GCC unroll 16
        for (int i = 0; i < FEATURES; i++) {
            for (int p = 0; p < C; p++) x[i * C + p] = load(at + i % 4 * step + p * width);
            if (i % 4 == 3 && i + 1 < FEATURES) at = here(at + 4 * step);
        }
    }

    template <int FEATURES> KM_INLINE void store_group(int64_t group, int64_t r, const vec<T> *x) const {
        T *at = tile + group * C * width + r;
        const int64_t step = stride * C * width;
#pragma GCC unroll 16
        for (int i = 0; i < FEATURES; i++) {
            for (int p = 0; p < C; p++) store(at + i % 4 * step + p * width, x[i * C + p]);
            if (i % 4 == 3 && i + 1 < FEATURES) at = here(at + 4 * step);
        }
    }
};

// The passes of every butterfly chain are general 2x2 blocks on neighbours, then on ever wider pairs, or the other way
// round: without a jump between their stages.
enum pass_order { ANY, RISING, FALLING };

template <class T, int C, int K, int SHIFT, int STEP> KM_INLINE const T *stages_in_order(const T *w, vec<T> *x) {
    if constexpr (SHIFT >= 0 && SHIFT < K)
        return stages_in_order<T, C, K, SHIFT + STEP, STEP>(stage_of<T, C, K, SHIFT, GENERAL>(w, x), x);
    else return w;
}

static pass_order order_of(const packed_pass *pass) {
    const int k = pass->log_radix;
    bool rising = pass->count == k, falling = rising;
    for (int s = 0; s < pass->count; s++) {
        if (pass->form[s] != GENERAL) return ANY;
        rising = rising && pass->shift[s] == s;
        falling = falling && pass->shift[s] == k - 1 - s;
    }
    return rising ? RISING : falling ? FALLING : ANY;
}

template <class T, int C, int K, int ORDER> KM_INLINE void run_group(const packed_pass *pass, const T *w, vec<T> *x) {
    if constexpr (ORDER == RISING) {
        stages_in_order<T, C, K, 0, 1>(w, x);
    } else if constexpr (ORDER == FALLING) {
        stages_in_order<T, C, K, K - 1, -1>(w, x);
    } else {
        for (int s = 0; s < pass->count; s++) w = stage<T, C, K>(pass->shift[s], pass->form[s], w, x);
    }
}

template <class T, int C, int K, int ORDER, class From, class To>
static void run_stages(const packed_pass *pass, const T *w, From from, To to, int64_t width) {
    constexpr int lanes = simd<T>::lanes, features = 1 << K;
    const int64_t group = pass->group * C;
    for (int64_t o = 0; o < pass->a; o++)
        for (int64_t e = 0; e < pass->d; e++, w += group) {
            const int64_t first = o * features * pass->d + e;
            for (int64_t r = 0; r < width; r += lanes) {
                vec<T> x[features * C];
                from.template load_group<features>(first, r, x);
                run_group<T, C, K, ORDER>(pass, w, x);
                to.template store_group<features>(first, r, x);
            }
        }
}

template <class T, int C, int K, class From, class To>
static void run_in_order(const packed_pass *pass, const T *w, From from, To to, int64_t width) {
    switch (order_of(pass)) {
        case RISING: return run_stages<T, C, K, RISING>(pass, w, from, to, width);
        case FALLING: return run_stages<T, C, K, FALLING>(pass, w, from, to, width);
        default: return run_stages<T, C, K, ANY>(pass, w, from, to, width);
    }
}

template <class T, int C, class From, class To>
static void run_any_stages(const packed_pass *pass, const T *w, From from, To to, int64_t width) {
    switch (pass->log_radix) {
        case 1: return run_in_order<T, C, 1>(pass, w, from, to, width);
        case 2: return run_in_order<T, C, 2>(pass, w, from, to, width);
        case 3:
            if constexpr (C == 1 || max_log_radix_complex >= 3) run_in_order<T, C, 3>(pass, w, from, to, width);
            return;
        default:
            if constexpr (C == 1 && max_log_radix >= 4) run_in_order<T, C, 4>(pass, w, from, to, width);
    }
}

// ---- a factor of any shape ----

// ROWS lines of the product, VECTORS vectors of each: the weights of one column follow each other.
template <class T, int C, int ROWS, int VECTORS>
KM_INLINE void block_lines(const T *w, int64_t columns, const T *in, int64_t in_step, T *out, int64_t out_step,
                           int64_t width) {
    constexpr int lanes = simd<T>::lanes;
    vec<T> sum[ROWS * VECTORS * C] = {};
    for (int64_t j = 0; j < columns; j++, in += in_step, w += ROWS * C) {
        vec<T> x[VECTORS * C];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            for (int p = 0; p < C; p++) x[v * C + p] = load(in + p * width + v * lanes);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                vec<T> *at = sum + (i * VECTORS + v) * C;
                if constexpr (C == 1) {
                    at[0] += w[i] * x[v];
                } else {
                    at[0] += w[2 * i] * x[2 * v];
                    at[1] += w[2 * i] * x[2 * v + 1];
                    at[0] -= w[2 * i + 1] * x[2 * v + 1];
                    at[1] += w[2 * i + 1] * x[2 * v];
                }
            }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < VECTORS; v++)
            for (int p = 0; p < C; p++)
                store(out + i * out_step + p * width + v * lanes, sum[(i * VECTORS + v) * C + p]);
}

template <class T, int C, int ROWS>
KM_INLINE void block_width(const T *w, int64_t columns, const T *in, int64_t in_step, T *out, int64_t out_step,
                           int64_t width) {
    constexpr int lanes = simd<T>::lanes;
    int64_t r = 0;
    if constexpr (C == 1)
        for (; r + 2 * lanes <= width; r += 2 * lanes)
            block_lines<T, C, ROWS, 2>(w, columns, in + r, in_step, out + r, out_step, width);
    for (; r < width; r += lanes) block_lines<T, C, ROWS, 1>(w, columns, in + r, in_step, out + r, out_step, width);
}

// The rows that are left over: fewer than a whole block of them.
template <class T, int C, int MOST>
KM_INLINE void block_rest(int64_t rows, const T *w, int64_t columns, const T *in, int64_t in_step, T *out,
                          int64_t out_step, int64_t width) {
    if constexpr (MOST > 1)
        if (rows < MOST) return block_rest<T, C, MOST - 1>(rows, w, columns, in, in_step, out, out_step, width);
    block_width<T, C, MOST>(w, columns, in, in_step, out, out_step, width);
}

template <class T, int C>
static void run_block(const packed_pass *pass, const T *weights, const T *in, T *out, int64_t width) {
    constexpr int step = rows_of_block<T, C>();
    const int64_t line = C * width, stride = pass->d * line, whole = pass->b / step * step;
    for (int64_t g = 0; g < pass->a; g++)
        for (int64_t k = 0; k < pass->d; k++) {
            const int64_t copy = (pass->copies_a > 1 ? g : 0) * pass->copies_d + (pass->copies_d > 1 ? k : 0);
            const T *w = weights + copy * pass->group * C;
            const T *from = in + (g * pass->c * pass->d + k) * line;
            T *to = out + (g * pass->b * pass->d + k) * line;
            for (int64_t i = 0; i < whole; i += step, w += step * pass->c * C)
                block_width<T, C, step>(w, pass->c, from, stride, to + i * stride, stride, width);
            if (whole < pass->b)
                block_rest<T, C, step - 1>(pass->b - whole, w, pass->c, from, stride, to + whole * stride, stride, width);
        }
}

// ---- any pass; returns where its result is ----

template <class T, int C>
KM_INLINE T *run_pass(const packed_pass *pass, const T *weights, T *tile, T *spare, int64_t width) {
    const T *w = weights + pass->offset;
    if (!pass->log_radix) {
        run_block<T, C>(pass, w, tile, spare, width);
        return spare;
    }
    const in_lines<T, C> lines{tile, width, pass->d};
    run_any_stages<T, C>(pass, w, lines, lines, width);
    return tile;
}

#endif
