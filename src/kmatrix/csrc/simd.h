// Vectors of one instruction set, and the number formats that become them.
//
// Everything here lives in the namespace of the translation unit that includes it (see variant.cpp): the same template
// compiled for two instruction sets must never share a name, or the linker keeps one of them for both.
#ifndef KMATRIX_SIMD_H
#define KMATRIX_SIMD_H

template <class T> struct simd;

template <> struct simd<float> {
    static constexpr int lanes = KM_VECTOR_BYTES / 4;
    typedef float vec __attribute__((vector_size(KM_VECTOR_BYTES)));
    typedef float anywhere __attribute__((vector_size(KM_VECTOR_BYTES), aligned(4), may_alias));
};

template <> struct simd<double> {
    static constexpr int lanes = KM_VECTOR_BYTES / 8;
    typedef double vec __attribute__((vector_size(KM_VECTOR_BYTES)));
    typedef double anywhere __attribute__((vector_size(KM_VECTOR_BYTES), aligned(8), may_alias));
};

template <class T> using vec = typename simd<T>::vec;

#define KM_INLINE inline __attribute__((always_inline))

struct bfloat16 {
    uint16_t bits;
};

struct float16 {
    uint16_t bits;
};

// ---- single numbers ----

KM_INLINE float bits_to_float(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

KM_INLINE uint32_t float_to_bits(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

KM_INLINE float widen(float value) { return value; }
KM_INLINE double widen(double value) { return value; }
KM_INLINE float widen(bfloat16 value) { return bits_to_float(uint32_t(value.bits) << 16); }

// Subnormal halves become exact by a multiplication, which spares the search for their leading bit.
KM_INLINE float widen(float16 value) {
    const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, rest = value.bits & 0x7fff;
    if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    return bits_to_float(float_to_bits(bits_to_float(rest << 13) * 0x1p112f) | sign);
}

KM_INLINE void narrow(float value, float *out) { *out = value; }
KM_INLINE void narrow(double value, double *out) { *out = value; }

KM_INLINE void narrow(float value, bfloat16 *out) {
    const uint32_t bits = float_to_bits(value);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    out->bits = nan ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Rounds to nearest even: by an addition that aligns the last bit where the half is subnormal, by integers elsewhere.
KM_INLINE void narrow(float value, float16 *out) {
    const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    uint32_t half;
    if (rest > 0x7f800000) {
        half = 0x7e00 | (rest >> 13 & 0x3ff);
    } else if (rest >= 0x477ff000) {
        half = 0x7c00;
    } else if (rest < 0x38800000) {
        half = float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000;
    } else {
        half = (rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13;
    }
    out->bits = uint16_t(sign | half);
}

// ---- vectors ----

template <class T> KM_INLINE vec<T> splat(T value) { return value - vec<T>{}; }

template <class T> KM_INLINE vec<T> load(const T *from) { return (vec<T>)*(const typename simd<T>::anywhere *)from; }
template <class T> KM_INLINE void store(T *to, vec<T> value) { *(typename simd<T>::anywhere *)to = value; }

// One vector of the arithmetic out of numbers of the storage type, and back.
KM_INLINE vec<float> load_wide(const float *from) { return load(from); }
KM_INLINE vec<double> load_wide(const double *from) { return load(from); }
KM_INLINE void store_narrow(float *to, vec<float> value) { store(to, value); }
KM_INLINE void store_narrow(double *to, vec<double> value) { store(to, value); }

typedef uint16_t halves __attribute__((vector_size(KM_VECTOR_BYTES / 2)));
typedef uint16_t halves_anywhere __attribute__((vector_size(KM_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(KM_VECTOR_BYTES)));
typedef int32_t flags __attribute__((vector_size(KM_VECTOR_BYTES)));

KM_INLINE vec<float> load_wide(const bfloat16 *from) {
    const halves bits = (halves)*(const halves_anywhere *)from;
    return (vec<float>)(__builtin_convertvector(bits, words) << 16);
}

KM_INLINE void store_narrow(bfloat16 *to, vec<float> value) {
    const words bits = (words)value;
    const words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
    const flags nan = (flags)(value != value);
    *(halves_anywhere *)to = __builtin_convertvector((words)(nan ? quiet : rounded), halves);
}

#if defined(__F16C__) && KM_VECTOR_BYTES == 64
KM_INLINE vec<float> load_wide(const float16 *from) {
    return (vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
KM_INLINE void store_narrow(float16 *to, vec<float> value) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__) && KM_VECTOR_BYTES == 32
KM_INLINE vec<float> load_wide(const float16 *from) {
    return (vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}
KM_INLINE void store_narrow(float16 *to, vec<float> value) {
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
}
#else
KM_INLINE vec<float> load_wide(const float16 *from) {
    vec<float> value{};
    for (int lane = 0; lane < simd<float>::lanes; lane++) value[lane] = widen(from[lane]);
    return value;
}
KM_INLINE void store_narrow(float16 *to, vec<float> value) {
    for (int lane = 0; lane < simd<float>::lanes; lane++) narrow(value[lane], to + lane);
}
#endif

// ---- a square of numbers, turned over ----

template <int... I> struct lane_list {};
template <int N, int... I> struct lanes_below : lanes_below<N - 1, N - 1, I...> {};
template <int... I> struct lanes_below<0, I...> {
    typedef lane_list<I...> type;
};

// Exchanges the upper right and lower left quarters of every 2H x 2H block that rows `low` and `high` cross.
template <int H, class V, int... I> KM_INLINE void exchange(V &low, V &high, lane_list<I...>) {
    constexpr int lanes = sizeof...(I);
    const V first = __builtin_shufflevector(low, high, ((I & H) ? lanes + I - H : I)...);
    high = __builtin_shufflevector(low, high, ((I & H) ? lanes + I : I + H)...);
    low = first;
}

template <int H, class T> KM_INLINE void transpose_from(vec<T> *rows) {
    constexpr int lanes = simd<T>::lanes;
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i++)
        if (!(i & H)) exchange<H>(rows[i], rows[i + H], typename lanes_below<lanes>::type{});
    if constexpr (H > 1) transpose_from<H / 2, T>(rows);
}

// Transposes lanes x lanes numbers held as one vector a row.
template <class T> KM_INLINE void transpose(vec<T> *rows) { transpose_from<simd<T>::lanes / 2, T>(rows); }

#endif
