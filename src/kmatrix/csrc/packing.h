// Weights in the order in which the tile kernels read them, one sequential stream, with a header that says what is
// where: a packed chain runs without its description.
#ifndef KMATRIX_PACKING_H
#define KMATRIX_PACKING_H

#include "simd.h"

constexpr int block_rows = KM_VECTOR_BYTES == 64 ? 8 : 4; // rows of a block that share one read of the vectors
constexpr int block_rows_complex = KM_VECTOR_BYTES == 64 ? 8 : 4;
constexpr int max_stages = 16;          // 2x2 factors in one pass
constexpr int max_log_radix = KM_VECTOR_BYTES == 64 ? 4 : 3;  // by the number of vector registers
constexpr int max_log_radix_complex = max_log_radix - 1;

// How the 2x2 blocks of a factor look, all of them: fewer numbers are stored, and read, and multiplied.
enum stage_form : int8_t {
    GENERAL,   // [[p, q], [r, s]]
    TWIST_IN,  // [[1, w], [1, -w]]: what a Cooley-Tukey stage multiplies before it adds
    TWIST_OUT, // [[1, 1], [w, -w]]: the same transposed
    PLUS_MINUS // [[1, 1], [1, -1]]
};

struct packed_pass {
    int32_t first, count;       // its factors
    int32_t log_radix;          // 2x2 factors that stay in registers; 0 for one factor of any shape
    int64_t a, b, c, d;         // of the factor; for 2x2 factors, groups a and stride d of the whole pass
    int64_t copies_a, copies_d; // how many different weights there are along a and d
    int64_t features_in, features_out;
    int64_t offset;             // of its weights in the packed chain, in numbers of the arithmetic
    int64_t group;              // weights of one group
    int8_t shift[max_stages];   // 2x2 factors pair features 2^shift strides apart
    int8_t form[max_stages];
};

struct packed_chain {
    int32_t n_passes, tile_vectors;
    int64_t n_in, n_out, features; // the widest the chain gets
    int64_t weights;               // where the weights start, in bytes from here
    int64_t lines, sources, bias;  // where those arrays start, or 0
    int64_t n_zero, zero;          // features that no column of x feeds
    int64_t n_again, again;        // pairs (feature, feature that holds the same column of x)
    packed_pass passes[1];
};

template <class T, int C> KM_INLINE constexpr int rows_of_block() { return C == 1 ? block_rows : block_rows_complex; }

static int log2_exact(int64_t n) {
    int k = 0;
    while ((int64_t(1) << k) < n) k++;
    return (int64_t(1) << k) == n ? k : -1;
}

static int is_complex(const km_chain *chain) { return chain->dtype == KM_C64 || chain->dtype == KM_C128; }

static int can_fuse(const km_chain *chain, int32_t first, int32_t count) {
    if (count < 1 || first < 0 || first + count > chain->n_factors) return 0;
    if (count == 1) return 1;
    if (count > max_stages) return 0;
    int64_t stride = chain->factors[first].d;
    for (int i = first; i < first + count; i++) {
        const km_factor *f = chain->factors + i;
        if (f->b != 2 || f->c != 2) return 0;
        if (f->d < stride) stride = f->d;
    }
    const int widest = is_complex(chain) ? max_log_radix_complex : max_log_radix;
    for (int i = first; i < first + count; i++) {
        if (chain->factors[i].d % stride) return 0;
        const int shift = log2_exact(chain->factors[i].d / stride);
        if (shift < 0 || shift >= widest) return 0;
    }
    return 1;
}

// ---- one number of a weight ----

template <class S, class T, int C> KM_INLINE void read_weight(const km_factor *f, int64_t g, int64_t i, int64_t j, int64_t k,
                                                              T *out) {
    const S *at = (const S *)f->w + C * (g * f->sa + i * f->sb + j * f->sc + k * f->sd);
    for (int p = 0; p < C; p++) out[p] = T(widen(at[p]));
}

// ---- 2x2 factors ----

// The weights that the group of features o*span + e + i*stride needs: where those of butterfly `pair` of a stage lie.
struct weight_place {
    int64_t g, k;  // along a and along d of its factor
};

static weight_place place_of(const packed_pass *pass, int shift, int64_t o, int64_t e, int pair) {
    const int64_t low = pair & ((1 << shift) - 1), high = pair >> shift;
    const int64_t in_group = int64_t(1) << (pass->log_radix - 1 - shift);
    return {o * in_group + high, low * pass->d + e};
}

template <class S, class T, int C> static int form_of(const km_factor *f) {
    bool in = true, out = true, plain = true;
    const int64_t groups = f->sa ? f->a : 1, diagonals = f->sd ? f->d : 1;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t k = 0; k < diagonals; k++) {
            T w[4][2] = {};
            for (int q = 0; q < 4; q++) read_weight<S, T, C>(f, g, q >> 1, q & 1, k, w[q]);
            const auto one = [&](int q) { return w[q][0] == 1 && w[q][1] == 0; };
            const bool opposite_in = w[1][0] == -w[3][0] && w[1][1] == -w[3][1];
            const bool opposite_out = w[2][0] == -w[3][0] && w[2][1] == -w[3][1];
            in = in && one(0) && one(2) && opposite_in;
            out = out && one(0) && one(1) && opposite_out;
            plain = plain && one(1) && one(2);
            if (!in && !out) return GENERAL;
        }
    return in && out && plain ? PLUS_MINUS : in ? TWIST_IN : TWIST_OUT;
}

KM_INLINE int weights_of(int form) { return form == GENERAL ? 4 : form == PLUS_MINUS ? 0 : 1; }

template <class S, class T, int C> static void pack_stages(const km_chain *chain, const packed_pass *pass, T *to) {
    constexpr int most_pairs = 1 << (max_log_radix - 1);
    const int pairs = 1 << (pass->log_radix - 1);
    int64_t offsets[max_stages][most_pairs];
    for (int s = 0; s < pass->count; s++) {
        const km_factor *f = chain->factors + pass->first + s;
        for (int pair = 0; pair < pairs; pair++) {
            const weight_place at = place_of(pass, pass->shift[s], 0, 0, pair);
            offsets[s][pair] = at.g * f->sa + at.k * f->sd;
        }
    }
    for (int64_t o = 0; o < pass->a; o++)
        for (int64_t e = 0; e < pass->d; e++)
            for (int s = 0; s < pass->count; s++) {
                const km_factor *f = chain->factors + pass->first + s;
                const int first = pass->form[s] == GENERAL ? 0 : pass->form[s] == TWIST_IN ? 1 : 2;
                const int last = first + weights_of(pass->form[s]);
                const int64_t in_group = pairs >> pass->shift[s];
                const S *w = (const S *)f->w + C * (o * in_group * f->sa + e * f->sd);
                for (int pair = 0; pair < pairs; pair++)
                    for (int q = first; q < last; q++, to += C) {
                        const S *from = w + C * (offsets[s][pair] + (q >> 1) * f->sb + (q & 1) * f->sc);
                        for (int p = 0; p < C; p++) to[p] = T(widen(from[p]));
                    }
            }
}

// ---- a factor of any shape: [a][d][row block][column][row] ----

template <class S, class T, int C> static void pack_block(const km_factor *f, const packed_pass *pass, T *to) {
    constexpr int step = rows_of_block<T, C>();
    for (int64_t g = 0; g < pass->copies_a; g++)
        for (int64_t k = 0; k < pass->copies_d; k++)
            for (int64_t i = 0; i < f->b; i += step) {
                const int64_t end = i + step < f->b ? i + step : f->b;
                for (int64_t j = 0; j < f->c; j++)
                    for (int64_t r = i; r < end; r++, to += C) read_weight<S, T, C>(f, g, r, j, k, to);
            }
}

// ---- the header ----

static packed_pass describe_pass(const km_chain *chain, int32_t first, int32_t count) {
    packed_pass pass = {};
    const km_factor *f = chain->factors + first, *last = f + count - 1;
    pass.first = first;
    pass.count = count;
    pass.features_in = f->a * f->c * f->d;
    pass.features_out = last->a * last->b * last->d;
    const bool stages = f->b == 2 && f->c == 2;
    if (!stages) {
        pass.a = f->a, pass.b = f->b, pass.c = f->c, pass.d = f->d;
        pass.copies_a = f->sa ? f->a : 1;
        pass.copies_d = f->sd ? f->d : 1;
        pass.group = f->b * f->c;
        return pass;
    }
    pass.d = f->d;
    for (int s = 1; s < count; s++)
        if (f[s].d < pass.d) pass.d = f[s].d;
    for (int s = 0; s < count; s++) {
        pass.shift[s] = int8_t(log2_exact(f[s].d / pass.d));
        if (pass.shift[s] >= pass.log_radix) pass.log_radix = pass.shift[s] + 1;
    }
    pass.a = pass.features_in / (pass.d << pass.log_radix);
    pass.copies_a = pass.a, pass.copies_d = pass.d;
    pass.group = count * 4 * (int64_t(1) << (pass.log_radix - 1));
    return pass;
}

static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

template <class T, int C> static int64_t pass_weights(const packed_pass *pass) {
    return aligned(pass->copies_a * pass->copies_d * pass->group * C * int64_t(sizeof(T))) / int64_t(sizeof(T));
}

static int64_t first_features(const km_chain *chain) {
    const km_factor *f = chain->factors;
    return f->a * f->c * f->d;
}

template <class T, int C> static int64_t packed_bytes_of(const km_chain *chain) {
    int64_t bytes = aligned(int64_t(sizeof(packed_chain)) + chain->n_passes * int64_t(sizeof(packed_pass)));
    const int64_t features = first_features(chain);
    if (chain->gather) bytes += aligned(chain->n_in * 8) + aligned(features * 8) + aligned(features * 16);
    if (chain->take) bytes += aligned(chain->n_out * 8);
    if (chain->bias) bytes += aligned(chain->n_out * C * int64_t(sizeof(T)));
    int32_t first = 0;
    for (int p = 0; p < chain->n_passes; first += chain->pass_factors[p++]) {
        const packed_pass pass = describe_pass(chain, first, chain->pass_factors[p]);
        bytes += pass_weights<T, C>(&pass) * int64_t(sizeof(T));
    }
    return bytes;
}

// Turns `gather` (feature -> column of x) round, so that each column read is stored where it belongs.
static void pack_gather(const km_chain *chain, packed_chain *head, char *base, int64_t *end) {
    const int64_t features = first_features(chain);
    head->lines = *end;
    int64_t *lines = (int64_t *)(base + *end);
    *end += aligned(chain->n_in * 8);
    head->zero = *end;
    int64_t *zero = (int64_t *)(base + *end);
    *end += aligned(features * 8);
    head->again = *end;
    int64_t *again = (int64_t *)(base + *end);
    *end += aligned(features * 16);
    for (int64_t column = 0; column < chain->n_in; column++) lines[column] = -1;
    for (int64_t feature = 0; feature < features; feature++) {
        const int64_t column = chain->gather[feature];
        if (column < 0) {
            zero[head->n_zero++] = feature;
        } else if (lines[column] < 0) {
            lines[column] = feature;
        } else {
            again[2 * head->n_again] = feature;
            again[2 * head->n_again++ + 1] = lines[column];
        }
    }
}

template <class S, class T, int C> static void pack_chain(const km_chain *chain, void *packed) {
    packed_chain *head = (packed_chain *)packed;
    char *base = (char *)packed;
    *head = packed_chain{};
    head->n_passes = chain->n_passes;
    head->tile_vectors = chain->tile_vectors;
    head->n_in = chain->n_in, head->n_out = chain->n_out;
    int64_t end = aligned(int64_t(sizeof(packed_chain)) + chain->n_passes * int64_t(sizeof(packed_pass)));
    if (chain->gather) pack_gather(chain, head, base, &end);
    if (chain->take) {
        head->sources = end;
        __builtin_memcpy(base + end, chain->take, size_t(chain->n_out * 8));
        end += aligned(chain->n_out * 8);
    }
    if (chain->bias) {
        head->bias = end;
        for (int64_t i = 0; i < chain->n_out * C; i++) ((T *)(base + end))[i] = T(widen(((const S *)chain->bias)[i]));
        end += aligned(chain->n_out * C * int64_t(sizeof(T)));
    }
    head->weights = end;
    T *weights = (T *)(base + end);
    int64_t offset = 0;
    int32_t first = 0;
    for (int p = 0; p < chain->n_passes; first += chain->pass_factors[p++]) {
        packed_pass *pass = head->passes + p;
        *pass = describe_pass(chain, first, chain->pass_factors[p]);
        pass->offset = offset;
        offset += pass_weights<T, C>(pass);
        if (pass->features_in > head->features) head->features = pass->features_in;
        if (pass->features_out > head->features) head->features = pass->features_out;
        if (!pass->log_radix) {
            pack_block<S, T, C>(chain->factors + first, pass, weights + pass->offset);
            continue;
        }
        pass->group = 0;
        for (int s = 0; s < pass->count; s++) {
            pass->form[s] = int8_t(form_of<S, T, C>(chain->factors + first + s));
            pass->group += weights_of(pass->form[s]) * (int64_t(1) << (pass->log_radix - 1));
        }
        pack_stages<S, T, C>(chain, pass, weights + pass->offset);
    }
}

#endif
