// Weights of groups of 2x2 blocks in the order in which one row uses them: block after block, and stage after stage.
//
// A row whose weights are far from the core waits for memory. Where the factors are, a block reads short runs far apart,
// which processors hardly fetch ahead; in order of use they are one stream.
#ifndef KMATRIX_ROWS_ORDERED_H
#define KMATRIX_ROWS_ORDERED_H

#include "rows_groups.h"

namespace rows {

// Reals of these factors, which are a group; 0 if some are tied or copied, and so take less where they are.
template <class T, int C> static int64_t ordered_reals(const km_factor *factors, int count) {
    int64_t reals = 0;
    for (int i = 0; i < count; i++) {
        const km_factor &f = factors[i];
        if ((f.a > 1 && f.sa == 0) || (f.d > 1 && f.sd == 0) || copied<T, C>(f)) return 0;
        reals += f.a * 4 * f.d * C;
    }
    return reals;
}

// Copies the weights of a group whose stages are filled in.
template <class S, class T, int C> static void order_group(const group<S> &found, S *to) {
    constexpr int64_t L = numbers_of<T, C>, run = simd<T>::lanes;
    const span &at = found.at;
    for (int64_t v = 0; v < at.vectors; v = ((v | at.mask) + 1) & ~at.mask)
        for (int i = 0; i < found.count; i++) {
            const stage<S> &s = found.stages[i];
            const S *block = s.w + (v * L >> s.shift) * s.block + (v * L & s.mask) * s.step;
            for (int index = 0; index < 1 << found.n_bits; index++) {
                const S *w = block;
                for (int t = 0; t < found.n_bits; t++)
                    if (index >> t & 1) w += s.bit[t];
                const bool across = s.kind >= inside_kinds;
                if (across && index >> (s.kind - inside_kinds) & 1) continue;
                const int64_t inside[2] = {0, run}, four[4] = {0, s.column, s.row, s.row + s.column};
                for (int part = 0; part < (across ? 4 : 2); part++, to += run)
                    __builtin_memcpy(to, w + (across ? four : inside)[part], size_t(run) * sizeof(S));
            }
        }
}

// The stages of a group read what `order_group` wrote.
template <class S, class T> static void read_in_order(const S *from, group<S> *found) {
    constexpr int64_t run = simd<T>::lanes;
    const int64_t each = run * 2 << found->n_bits;
    found->at.ordered = each * found->count;
    for (int i = 0; i < found->count; i++) {
        stage<S> &s = found->stages[i];
        const int own = s.kind - inside_kinds;  // below 0: inside a vector
        s.w = from + i * each;
        s.column = run, s.row = 2 * run;
        for (int t = 0; t < found->n_bits; t++) s.bit[t] = own < 0 ? 2 * run << t : 4 * run << (t > own ? t - 1 : t);
    }
}

// The weights of all groups of a chain for one row, in order; returns how many reals. `to` may be NULL, to count.
template <class S, class T, int C> static int64_t order(const km_chain *chain, S *to) {
    int64_t reals = 0;
    for (int at = 0; at < chain->n_factors;) {
        group<S> found;
        if (!find_group<S, T, C>(chain, at, max_bits, &found)) {
            at++;
            continue;
        }
        const int64_t more = ordered_reals<T, C>(chain->factors + at, found.count);
        if (more && to) {
            fill_group<S, T, C>(chain, at, &found, (S *)nullptr);
            order_group<S, T, C>(found, to + reals);
        }
        reals += more;
        at += found.count;
    }
    return reals;
}

}  // namespace rows

#endif
