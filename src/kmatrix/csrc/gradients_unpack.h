// Sums that the kernels formed in their own order, put where the caller wants them.
#ifndef KMATRIX_GRADIENTS_UNPACK_H
#define KMATRIX_GRADIENTS_UNPACK_H

#include "gradients_steps.h"

// The 2x2 blocks of a group in the order of their sums: where each belongs among the gradients of its factor, counted
// from where those of the group start.
struct sum_places {
    int count;
    struct {
        int stage;
        int64_t sums, to;
    } block[max_stages << (max_log_radix - 1)];
};

template <class T, int C>
static void list_sums(const km_chain *chain, const packed_pass *pass, sum_places *places) {
    step_back steps[max_stages];
    const int n_steps = steps_of<C>(pass, steps), pairs = 1 << (pass->log_radix - 1);
    int64_t sums = 0;
    places->count = 0;
    const auto add = [&](int s, int pair, int64_t at) {
        const km_factor *f = chain->factors + pass->first + s;
        const int64_t diagonals = f->sd ? f->d : 1, k = (pair & ((1 << pass->shift[s]) - 1)) * pass->d;
        const int64_t g = pair >> pass->shift[s];
        places->block[places->count++] = {s, at, (f->sa ? g * 4 * diagonals : 0) + (f->sd ? k : 0)};
    };
    for (int n = 0; n < n_steps; n++) {
        const step_back step = steps[n];
        const int s = step.first, low = step.low, high = step.high;
        for (int pair = 0; step.stages == 1 && pair < pairs; pair++) add(s, pair, sums + pair * 4 * C);
        for (int quad = 0; step.stages == 2 && quad < pairs / 2; quad++) {
            const int first = first_of_four(quad, low, high);
            add(s, pair_of(first, low), sums + quad * 16);
            add(s, pair_of(first | 1 << high, low), sums + quad * 16 + 4);
            add(s + 1, pair_of(first, high), sums + quad * 16 + 8);
            add(s + 1, pair_of(first | 1 << low, high), sums + quad * 16 + 12);
        }
        sums += sums_of_step<T, C>(step.stages, pass->log_radix);
    }
}

// The gradients of an untied factor: every sum has a place of its own.
template <class T, int C>
KM_INLINE void put_sums(const packed_pass *pass, const km_factor *f, int64_t in_group, const T *sums, int64_t group,
                        T *to) {
    for (int64_t o = 0; o < pass->a; o++, to += in_group * 4 * f->d * C)
        for (int64_t e = 0; e < pass->d; e++, sums += group)
            for (int q = 0; q < 4; q++)
                for (int p = 0; p < C; p++) to[(q * f->d + e) * C + p] = sums[q * C + p];
}

// Those of a factor tied over a or d: many sums for one place, added in double precision.
template <class T, int C>
static void add_tied_sums(const packed_pass *pass, const km_factor *f, int64_t in_group, const T *sums, int64_t group,
                          T *to) {
    const int64_t diagonals = f->sd ? f->d : 1;
    const int64_t places_a = f->sa ? pass->a : 1, places_d = f->sd ? pass->d : 1;
    for (int64_t o = 0; o < places_a; o++)
        for (int64_t e = 0; e < places_d; e++) {
            double sum[4 * C] = {};
            for (int64_t i = o; i < pass->a; i += places_a)
                for (int64_t j = e; j < pass->d; j += places_d)
                    for (int q = 0; q < 4 * C; q++) sum[q] += sums[(i * pass->d + j) * group + q];
            T *at = to + (o * in_group * 4 * diagonals + e) * C;
            for (int q = 0; q < 4; q++)
                for (int p = 0; p < C; p++) at[q * diagonals * C + p] += T(sum[q * C + p]);
        }
}

template <class T, int C>
static void unpack_stages(const km_chain *chain, const packed_pass *pass, const T *sums, void *const *grad_weights) {
    sum_places places;
    list_sums<T, C>(chain, pass, &places);
    const int64_t group = sums_of_group<T, C>(pass);
    const auto tied = [](const km_factor *f) { return (f->a > 1 && !f->sa) || (f->d > 1 && !f->sd); };
    for (int i = pass->first; i < pass->first + pass->count; i++) {
        const km_factor *f = chain->factors + i;
        const int64_t numbers = (f->sa ? f->a : 1) * 4 * (f->sd ? f->d : 1) * C;
        if (tied(f)) __builtin_memset(grad_weights[i], 0, size_t(numbers) * sizeof(T));
    }
    for (int i = 0; i < places.count; i++) {
        const auto at = places.block[i];
        const int32_t factor = pass->first + at.stage;
        const km_factor *f = chain->factors + factor;
        const int64_t in_group = int64_t(1) << (pass->log_radix - 1 - pass->shift[at.stage]);
        T *to = (T *)grad_weights[factor] + at.to * C;
        if (tied(f)) add_tied_sums<T, C>(pass, f, in_group, sums + at.sums, group, to);
        else put_sums<T, C>(pass, f, in_group, sums + at.sums, group, to);
    }
}

#endif
