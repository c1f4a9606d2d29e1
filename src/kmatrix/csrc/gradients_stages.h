// Gradients of a pass of 2x2 factors: the features of one group of the pass go through its stages once more, from the
// input that was kept, then back through them in steps of one or two stages whose weights' gradients stay in registers.
#ifndef KMATRIX_GRADIENTS_STAGES_H
#define KMATRIX_GRADIENTS_STAGES_H

#include "lane_sums.h"
#include "passes.h"

// Two stages on four features need 16 accumulators, 12 features and gradients: only large register files hold them.
template <int C> KM_INLINE constexpr int stages_together() { return C == 1 && KM_VECTOR_BYTES == 64 ? 2 : 1; }

// One or two consecutive stages of a pass. Where there are two, they pair features at different distances.
struct step_back {
    int first, stages;
    int low, high;  // bits of the number of a feature that the stages pair; equal where there is one stage
};

// The steps of a pass in order of application; returns how many. A single stage comes first: then least is computed
// again.
template <int C> static int steps_of(const packed_pass *pass, step_back *steps) {
    int n = 0;
    for (int end = pass->count; end > 0; n++) {
        const int s = end - 1;
        const bool two = stages_together<C>() == 2 && s > 0 && pass->shift[s] != pass->shift[s - 1];
        steps[n] = {two ? s - 1 : s, two ? 2 : 1, two ? pass->shift[s - 1] : pass->shift[s], pass->shift[s]};
        end -= steps[n].stages;
    }
    for (int i = 0; i < n / 2; i++) {
        const step_back other = steps[i];
        steps[i] = steps[n - 1 - i];
        steps[n - 1 - i] = other;
    }
    return n;
}

// Numbers whose sums over the lanes are formed together, and how many 2x2 blocks of one stage they belong to.
template <class T, int C> KM_INLINE constexpr int pairs_at_once() {
    return simd<T>::lanes > 4 * C ? simd<T>::lanes / (4 * C) : 1;
}
template <class T, int C> KM_INLINE constexpr int sums_of_step(int stages, int log_radix) {
    if (stages == 2) return 16 << (log_radix - 2);
    constexpr int at_once = pairs_at_once<T, C>();
    const int pairs = 1 << (log_radix - 1);
    return (pairs < at_once ? at_once : pairs) * 4 * C;
}

// Gradients of the weights that one group of a pass holds.
template <class T, int C> static int64_t sums_of_group(const packed_pass *pass) {
    step_back steps[max_stages];
    const int n = steps_of<C>(pass, steps);
    int64_t all = 0;
    for (int i = 0; i < n; i++) all += sums_of_step<T, C>(steps[i].stages, pass->log_radix);
    return all;
}

// The number without bit `bit`: which 2x2 block of a stage a feature belongs to.
KM_INLINE int pair_of(int feature, int bit) {
    return (feature & ((1 << bit) - 1)) | (feature >> (bit + 1)) << bit;
}
// The number with a zero put in at `bit`: the first feature of a 2x2 block.
KM_INLINE int feature_of(int pair, int bit) { return (pair & ((1 << bit) - 1)) | (pair >> bit) << (bit + 1); }
// The first of the four features that differ in bits `low` and `high`, counted by the other bits.
KM_INLINE int first_of_four(int quad, int low, int high) {
    return low < high ? feature_of(feature_of(quad, low), high) : feature_of(feature_of(quad, high), low);
}

// sum += g * conj(x)
template <class T, int C> KM_INLINE void add_product(const vec<T> *g, const vec<T> *x, vec<T> *sum) {
    sum[0] += g[0] * x[0];
    if constexpr (C == 2) {
        sum[1] += g[1] * x[0];
        sum[0] += g[1] * x[1];
        sum[1] -= g[0] * x[1];
    }
}

// out = conj(p)*x + conj(q)*y
template <class T, int C>
KM_INLINE void combine_back(const T *p, const vec<T> *x, const T *q, const vec<T> *y, vec<T> *out) {
    if constexpr (C == 1) {
        out[0] = p[0] * x[0] + q[0] * y[0];
    } else {
        out[0] = p[0] * x[0] + p[1] * x[1] + q[0] * y[0] + q[1] * y[1];
        out[1] = p[0] * x[1] - p[1] * x[0] + q[0] * y[1] - q[1] * y[0];
    }
}

// One 2x2 block with input (x, y): adds to the gradients of its weights, replaces those of its output by its input's.
template <class T, int C>
KM_INLINE void butterfly_back(const T *w, const vec<T> *x, const vec<T> *y, vec<T> *g, vec<T> *h, vec<T> *sum) {
    add_product<T, C>(g, x, sum);
    add_product<T, C>(g, y, sum + C);
    add_product<T, C>(h, x, sum + 2 * C);
    add_product<T, C>(h, y, sum + 3 * C);
    vec<T> low[C], high[C];
    combine_back<T, C>(w, g, w + 2 * C, h, low);
    combine_back<T, C>(w + C, g, w + 3 * C, h, high);
    for (int p = 0; p < C; p++) g[p] = low[p], h[p] = high[p];
}

// Lines of features: feature i at data + i*step, its imaginary part `width` further.
template <class T> struct lines {
    T *data;
    int64_t step;
};

template <class T, int C> KM_INLINE void load_feature(const T *line, int64_t width, vec<T> *x) {
    for (int p = 0; p < C; p++) x[p] = load(line + p * width);
}
template <class T, int C> KM_INLINE void store_feature(T *line, int64_t width, const vec<T> *x) {
    for (int p = 0; p < C; p++) store(line + p * width, x[p]);
}

template <class T, int C>
KM_INLINE void one_stage_back(int log_radix, int bit, const T *w, lines<const T> in, lines<const T> above, lines<T> below,
                              T *sums, int64_t width) {
    constexpr int at_once = pairs_at_once<T, C>(), numbers = at_once * 4 * C;
    const int pairs = 1 << (log_radix - 1);
    for (int pair = 0; pair < pairs; sums += numbers) {
        vec<T> sum[numbers] = {};
#pragma GCC unroll 4
        for (int i = 0; i < at_once; i++, pair++) {
            if (pair >= pairs) break;
            const int64_t low = feature_of(pair, bit), high = low | 1 << bit;
            for (int64_t r = 0; r < width; r += simd<T>::lanes) {
                vec<T> x[C], y[C], g[C], h[C];
                load_feature<T, C>(in.data + low * in.step + r, width, x);
                load_feature<T, C>(in.data + high * in.step + r, width, y);
                load_feature<T, C>(above.data + low * above.step + r, width, g);
                load_feature<T, C>(above.data + high * above.step + r, width, h);
                butterfly_back<T, C>(w + pair * 4 * C, x, y, g, h, sum + i * 4 * C);
                store_feature<T, C>(below.data + low * below.step + r, width, g);
                store_feature<T, C>(below.data + high * below.step + r, width, h);
            }
        }
        add_lane_sums<T, numbers>(sum, sums);
    }
}

// Two stages on the four features that differ in bits `low` (paired first) and `high`.
template <class T>
KM_INLINE void two_stages_back(int log_radix, int low, int high, const T *w, lines<const T> in, lines<const T> above,
                               lines<T> below, T *sums, int64_t width) {
    const int pairs = 1 << (log_radix - 1);
    for (int quad = 0; quad < pairs / 2; quad++, sums += 16) {
        const int first = first_of_four(quad, low, high);
        const int64_t at[4] = {first, first | 1 << low, first | 1 << high, first | 1 << low | 1 << high};
        const T *w01 = w + 4 * pair_of(int(at[0]), low), *w23 = w + 4 * pair_of(int(at[2]), low);
        const T *w02 = w + 4 * (pairs + pair_of(int(at[0]), high)), *w13 = w + 4 * (pairs + pair_of(int(at[1]), high));
        vec<T> sum[16] = {};
        for (int64_t r = 0; r < width; r += simd<T>::lanes) {
            vec<T> x[4], y[4], g[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) x[i] = y[i] = load(in.data + at[i] * in.step + r);
            butterfly<T, 1, GENERAL>(w01, y, y + 1);
            butterfly<T, 1, GENERAL>(w23, y + 2, y + 3);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) g[i] = load(above.data + at[i] * above.step + r);
            butterfly_back<T, 1>(w02, y, y + 2, g, g + 2, sum + 8);
            butterfly_back<T, 1>(w13, y + 1, y + 3, g + 1, g + 3, sum + 12);
            butterfly_back<T, 1>(w01, x, x + 1, g, g + 1, sum);
            butterfly_back<T, 1>(w23, x + 2, x + 3, g + 2, g + 3, sum + 4);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) store(below.data + at[i] * below.step + r, g[i]);
        }
        add_lane_sums<T, 16>(sum, sums);
    }
}

// All four numbers of every block, whatever form the packed weights of the group have.
template <class T, int C> static void write_out_weights(const packed_pass *pass, const T *w, T *to) {
    for (int s = 0; s < pass->count; s++)
        for (int pair = 0; pair < 1 << (pass->log_radix - 1); pair++, to += 4 * C) {
            const int form = pass->form[s];
            for (int p = 0; p < C; p++) {
                const T one = p ? T(0) : T(1), value = form == PLUS_MINUS ? one : w[p];
                to[p] = form == GENERAL ? value : one;
                to[C + p] = form == GENERAL ? w[C + p] : form == TWIST_IN ? value : one;
                to[2 * C + p] = form == GENERAL ? w[2 * C + p] : form == TWIST_OUT ? value : one;
                to[3 * C + p] = form == GENERAL ? w[3 * C + p] : -value;
            }
            w += weights_of(form) * C;
        }
}

// Runs the features of one group through the stages and keeps the inputs of all steps but the first.
template <class T, int C, int K>
KM_INLINE void keep_steps(const packed_pass *pass, const step_back *steps, int n_steps, const T *w, lines<const T> in,
                          T *kept, int64_t width) {
    constexpr int features = 1 << K;
    for (int64_t r = 0; r < width; r += simd<T>::lanes) {
        vec<T> x[features * C];
#pragma GCC unroll 16
        for (int i = 0; i < features; i++) load_feature<T, C>(in.data + i * in.step + r, width, x + i * C);
        const T *at = w;
        for (int n = 1; n < n_steps; n++) {
            for (int s = steps[n - 1].first; s < steps[n].first; s++)
                at = stage<T, C, K>(pass->shift[s], pass->form[s], at, x);
            T *to = kept + (n - 1) * features * C * width + r;
#pragma GCC unroll 16
            for (int i = 0; i < features; i++) store_feature<T, C>(to + i * C * width, width, x + i * C);
        }
    }
}

// `in` is what entered the pass, `grad` the gradient of what left it, which becomes that of what entered; `own` has
// room for the features of a group once for each step.
template <class T, int C, int K>
static void gradients_of_stages(const packed_pass *pass, const T *w, const T *in, T *grad, T *own, T *sums,
                                int64_t width) {
    constexpr int features = 1 << K;
    const int64_t line = C * width, distance = pass->d * line;
    step_back steps[max_stages];
    const int n_steps = steps_of<C>(pass, steps);
    T *kept = own + features * line;
    alignas(64) T written_out[max_stages * features * 2 * C];
    bool general = true;
    for (int s = 0; s < pass->count; s++) general = general && pass->form[s] == GENERAL;
    for (int64_t o = 0; o < pass->a; o++)
        for (int64_t e = 0; e < pass->d; e++, w += pass->group * C) {
            const int64_t first = o * features * distance + e * line;
            const lines<const T> entered = {in + first, distance};
            keep_steps<T, C, K>(pass, steps, n_steps, w, entered, kept, width);
            if (!general) write_out_weights<T, C>(pass, w, written_out);
            const T *numbers = general ? w : written_out;
            T *end = sums += sums_of_group<T, C>(pass);
            for (int n = n_steps - 1; n >= 0; n--) {
                const step_back step = steps[n];
                const lines<const T> input = n ? lines<const T>{kept + (n - 1) * features * line, line} : entered;
                const lines<T> user = {grad + first, distance}, inside = {own, line};
                const lines<T> from = n == n_steps - 1 ? user : inside, below = n ? inside : user;
                const lines<const T> above = {from.data, from.step};
                const T *weights = numbers + step.first * features * 2 * C;
                end -= sums_of_step<T, C>(step.stages, K);
                if constexpr (stages_together<C>() == 2 && K > 1) {
                    if (step.stages == 2) {
                        two_stages_back<T>(K, step.low, step.high, weights, input, above, below, end, width);
                        continue;
                    }
                }
                one_stage_back<T, C>(K, step.low, weights, input, above, below, end, width);
            }
        }
}

// ---- the sums, where the caller wants them ----

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

template <class T, int C>
static void unpack_stages(const km_chain *chain, const packed_pass *pass, const T *sums, void *const *grad_weights) {
    sum_places places;
    list_sums<T, C>(chain, pass, &places);
    const int64_t group = sums_of_group<T, C>(pass);
    for (int i = 0; i < places.count; i++) {
        const auto at = places.block[i];
        const km_factor *f = chain->factors + pass->first + at.stage;
        const int64_t diagonals = f->sd ? f->d : 1, in_group = 1 << (pass->log_radix - 1 - pass->shift[at.stage]);
        for (int64_t o = 0; o < pass->a; o++) {
            const T *from = sums + o * pass->d * group + at.sums;
            T *to = (T *)grad_weights[pass->first + at.stage];
            to += (at.to + (f->sa ? o * in_group * 4 * diagonals : 0)) * C;
            for (int64_t e = 0; e < pass->d; e++, from += group, to += f->sd ? C : 0)
                for (int q = 0; q < 4; q++)
                    for (int p = 0; p < C; p++) to[q * diagonals * C + p] += from[q * C + p];
        }
    }
}

#endif
