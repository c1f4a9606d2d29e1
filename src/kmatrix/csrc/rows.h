// A chain on a few rows, weights where they are: nothing is packed, so nothing has to be kept or checked for change.
//
// Up to `block_rows` rows go through the chain together, features along the lanes, between two buffers that stay in
// cache; every weight is read once for all of them.
#ifndef KMATRIX_ROWS_H
#define KMATRIX_ROWS_H

#include "packing.h"
#include "rows_blocks.h"
#include "rows_fold.h"
#include "rows_ordered.h"

namespace rows {

constexpr int64_t block_rows = 8, line_bytes = 64;

// Splitting the outputs of a factor between threads pays from here on (reals of weights, in bytes).
constexpr int64_t bytes_worth_threads = 1 << 20;

static int64_t widest(const km_chain *chain) {
    int64_t most = chain->n_in > chain->n_out ? chain->n_in : chain->n_out;
    for (int i = 0; i < chain->n_factors; i++) {
        const km_factor &f = chain->factors[i];
        const int64_t more = f.a * (f.b > f.c ? f.b : f.c) * f.d;
        if (more > most) most = more;
    }
    return most;
}

// A row of the buffers in bytes: a vector of slack to read and write beyond the end, and a line against rows that
// compete for the same place in the cache.
template <class T, int C> static int64_t row_bytes(const km_chain *chain) {
    return aligned(widest(chain) * C * int64_t(sizeof(T))) + KM_VECTOR_BYTES + line_bytes;
}

template <class S, class T, int C> static int64_t scratch_bytes(const km_chain *chain) {
    int64_t reals = 0;
    for (int i = 0; i < chain->n_factors; i++) reals += copied<T, C>(chain->factors[i]);
    return 2 * block_rows * row_bytes<T, C>(chain) + aligned(reals * int64_t(sizeof(S)));
}

// ---- rows in and out ----

template <class S, class T, int C>
static void read_row(const km_chain *chain, const S *x, int64_t column_stride, T *to) {
    constexpr int lanes = simd<T>::lanes;
    const int64_t *gather = chain->gather, step = column_stride * C;
    if (!gather && column_stride == 1) {
        const int64_t width = chain->n_in * C;
        int64_t i = 0;
        for (; i + lanes <= width; i += lanes) store(to + i, load_wide(x + i));
        for (; i < width; i++) to[i] = T(widen(x[i]));
        return;
    }
    const km_factor *f = chain->factors;
    const int64_t width = chain->n_factors ? f->a * f->c * f->d : chain->n_in;
    for (int64_t i = 0; i < width; i++) {
        const int64_t column = gather ? gather[i] : i;
        for (int p = 0; p < C; p++) to[i * C + p] = column < 0 ? T(0) : T(widen(x[column * step + p]));
    }
}

template <class S, class T, int C>
static void write_row(const km_chain *chain, const T *from, S *y, int64_t column_stride) {
    constexpr int lanes = simd<T>::lanes;
    const int64_t *take = chain->take;
    const S *bias = (const S *)chain->bias;
    if (!take && column_stride == 1) {
        const int64_t width = chain->n_out * C;
        int64_t i = 0;
        for (; i + lanes <= width; i += lanes)
            store_narrow(y + i, bias ? load(from + i) + load_wide(bias + i) : load(from + i));
        for (; i < width; i++) narrow(bias ? from[i] + T(widen(bias[i])) : from[i], y + i);
        return;
    }
    for (int64_t i = 0; i < chain->n_out; i++) {
        const T *number = from + (take ? take[i] : i) * C;
        for (int p = 0; p < C; p++)
            narrow(bias ? number[p] + T(widen(bias[i * C + p])) : number[p], y + i * column_stride * C + p);
    }
}

// ---- one factor ----

enum kernel { LONG, FOLD, SHORT, RUN, PLAIN };

// The factor with the strides of axes of length 1 set as if packed, and a diagonal taken as one block.
static km_factor tidied(km_factor f) {
    if (f.b == 1 && f.c == 1 && f.a > 1 && (f.d == 1 || f.sa == f.sd * f.d)) {
        f.sd = f.d == 1 ? f.sa : f.sd;
        f.d *= f.a, f.a = 1;
    }
    if (f.d == 1) f.sd = 1;
    if (f.c == 1) f.sc = f.d;
    if (f.b == 1) f.sb = f.c * f.d;
    if (f.a == 1) f.sa = 0;
    return f;
}

template <class S, class T, int C> static kernel kernel_of(const blocks<S> &f) {
    const bool by_vector = f.sd == C || f.sd == 0;
    if (by_vector && f.d >= numbers_of<T, C>) return LONG;
    if (folds<S, T, C>(f)) return FOLD;
    if (f.d == 1) return f.sc == C && f.c <= longest_run ? RUN : PLAIN;
    return by_vector ? SHORT : PLAIN;
}

// Whether it reads, or writes, up to a vector beyond the end of a row.
template <class S, class T, int C> static bool needs_slack(kernel k, const blocks<S> &f) {
    return k == SHORT || (k == FOLD && f.c * f.d < numbers_of<T, C>);
}

template <class S, class T, int C>
static void run_kernel(kernel k, const blocks<S> &f, int64_t begin, int64_t end, lines<const T> from, lines<T> to,
                       int64_t n_rows) {
    const bool tied = f.sd == 0;
    switch (k) {
        case LONG:
            if (tied) return long_rows<S, T, C, true>(f, begin, end, from, to, n_rows);
            return long_rows<S, T, C, false>(f, begin, end, from, to, n_rows);
        case FOLD: return fold_rows<S, T, C>(f, begin, end, from, to, n_rows);
        case SHORT:
            if (tied) return short_rows<S, T, C, true>(f, begin, end, from, to, n_rows);
            return short_rows<S, T, C, false>(f, begin, end, from, to, n_rows);
        case RUN: return run_rows<S, T, C>(f, begin, end, from, to, n_rows);
        default: return plain_rows<S, T, C>(f, begin, end, from, to, n_rows);
    }
}

// Calls run(begin, end) for parts of 0 .. units - 1 that start at multiples of `grain`.
template <class Run> static void in_parts(int64_t units, int64_t grain, int64_t n_parts, const Run &run) {
    const int64_t grains = units / grain;
    if (n_parts > grains) n_parts = grains;
    if (n_parts <= 1) return run(0, units);
#pragma omp parallel for num_threads(int(n_parts)) schedule(static)
    for (int64_t p = 0; p < n_parts; p++)
        run(grains * p / n_parts * grain, p + 1 == n_parts ? units : grains * (p + 1) / n_parts * grain);
}

static int64_t parts_worth(const km_factor *f, int count, int64_t real_bytes, int32_t threads) {
    int64_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += (f[i].sa ? f[i].a : 1) * f[i].b * f[i].c * (f[i].sd || f[i].d == 1 ? f[i].d : 1) * real_bytes;
    return bytes >= bytes_worth_threads ? threads : 1;
}

// ---- the chain ----

template <class S, class T, int C> struct walk {
    const km_chain *chain;
    lines<T> buffer[2];
    S *spare;
    int64_t n_rows;
    int32_t threads;
    // Rows of the caller that need no conversion are read and written where they are.
    bool direct_in, direct_out;
    km_matrix x, y;  // of these rows

    // The buffer that `from` is not.
    lines<T> other(lines<const T> from) const { return buffer[from.data == buffer[0].data]; }

    lines<T> result(lines<const T> from, bool last, bool slack) const {
        if constexpr (__is_same(S, T))
            if (last && direct_out && !slack) return {(T *)y.data, y.row_stride * C};
        return other(from);
    }

    lines<const T> copy_in() const {
        for (int64_t r = 0; r < n_rows; r++)
            read_row<S, T, C>(chain, (const S *)x.data + r * x.row_stride * C, x.column_stride,
                              buffer[0].data + r * buffer[0].row);
        return {buffer[0].data, buffer[0].row};
    }

    lines<const T> run_stages(int first, const group<S> &found, lines<const T> from) const {
        const lines<T> to = result(from, first + found.count == chain->n_factors, false);
        const int64_t n_parts = parts_worth(chain->factors + first, found.count, int64_t(sizeof(S)) * C, threads);
        in_parts(found.at.vectors, 1, n_parts, [&](int64_t begin, int64_t end) {
            run_found<S, T, C>(found, begin, end, from, to, n_rows);
        });
        return {to.data, to.row};
    }

    lines<const T> run_blocks(int at, lines<const T> from) const {
        const km_factor factor = tidied(chain->factors[at]);
        const blocks<S> f = blocks_of<S, C>(factor);
        const kernel k = kernel_of<S, T, C>(f);
        const bool slack = needs_slack<S, T, C>(k, f);
        if (slack && from.data != buffer[0].data && from.data != buffer[1].data) from = copy_in();
        const lines<T> to = result(from, at + 1 == chain->n_factors, slack);
        const int64_t n_parts = parts_worth(&factor, 1, int64_t(sizeof(S)) * C, threads);
        in_parts(f.a * f.b, f.b < 16 ? f.b : 16, n_parts, [&](int64_t begin, int64_t end) {
            run_kernel<S, T, C>(k, f, begin, end, from, to, n_rows);
        });
        return {to.data, to.row};
    }

    void run() const {
        lines<const T> from;
        if constexpr (__is_same(S, T)) {
            from = direct_in ? lines<const T>{(const T *)x.data, x.row_stride * C} : copy_in();
        } else {
            from = copy_in();
        }
        const S *ordered = n_rows == 1 ? (const S *)chain->ordered : nullptr;
        for (int at = 0; at < chain->n_factors;) {
            group<S> found;
            if (find_group<S, T, C>(chain, at, n_rows == 1 ? max_bits : max_bits - 1, &found)) {
                fill_group<S, T, C>(chain, at, &found, spare);
                const int64_t reals = ordered ? ordered_reals<T, C>(chain->factors + at, found.count) : 0;
                if (reals) {
                    read_in_order<S, T>(ordered, &found);
                    ordered += reals;
                }
                from = run_stages(at, found, from);
                at += found.count;
            } else {
                from = run_blocks(at++, from);
            }
        }
        finish(from);
    }

    void finish(lines<const T> from) const {
        const bool there = from.data == y.data;
        if (there && !chain->bias) return;
        for (int64_t r = 0; r < n_rows; r++)
            write_row<S, T, C>(chain, from.data + r * from.row, (S *)y.data + r * y.row_stride * C, y.column_stride);
    }
};

template <class S, class T, int C>
static void multiply(const km_chain *chain, km_matrix x, km_matrix y, int64_t batch, void *scratch, int32_t threads) {
    const int64_t row = row_bytes<T, C>(chain) / int64_t(sizeof(T));
    T *data = (T *)scratch;
    walk<S, T, C> w = {chain, {{data, row}, {data + block_rows * row, row}}, (S *)(data + 2 * block_rows * row),
                       0,     threads, false, false, x, y};
    w.direct_in = __is_same(S, T) && !chain->gather && x.column_stride == 1 && chain->n_factors;
    w.direct_out = __is_same(S, T) && !chain->take && y.column_stride == 1;
    for (int64_t start = 0; start < batch; start += block_rows) {
        w.n_rows = batch - start < block_rows ? batch - start : block_rows;
        w.x.data = (S *)x.data + start * x.row_stride * C;
        w.y.data = (S *)y.data + start * y.row_stride * C;
        w.run();
    }
}

}  // namespace rows

#endif
