// Boxes as the tile kernels read them: for each block of neighbouring positions the boxes that cover it, one after the
// other, with a weight for each position of the block, zero where the box does not reach.
#ifndef KMATRIX_SEGMENTS_PACKING_H
#define KMATRIX_SEGMENTS_PACKING_H

#include "packing.h"
#include "simd.h"

namespace segments {

constexpr int block = KM_VECTOR_BYTES == 64 ? 8 : 4;  // positions of a block; two vectors for each stay in registers

struct packed_side {
    int64_t blocks;
    int64_t begin, boxes, weights;  // where they start in bytes: first entry of each block; box and weights of each entry
};

struct packed_boxes {
    int64_t n_in, n_out, n_boxes;  // boxes that are not empty, numbered by their first column
    packed_side in, out;
};

// One side of the boxes: cyclic segments of 0 .. size - 1, their numbers one after the other.
struct side {
    const int64_t *start, *width;
    int64_t size;
    const void *numbers;
};

static side inputs(const km_boxes *of) {
    return {of->places + 2 * of->n_boxes, of->places + 3 * of->n_boxes, of->n_in, of->right};
}
static side outputs(const km_boxes *of) { return {of->places, of->places + of->n_boxes, of->n_out, of->left}; }

KM_INLINE bool is_empty(const km_boxes *of, int64_t k) {
    return !of->places[of->n_boxes + k] || !of->places[3 * of->n_boxes + k];
}

KM_INLINE int64_t blocks_of(int64_t size) { return (size + block - 1) / block; }

// Calls each(block, first position in the block, position in the segment, how many, whether the block was there before)
// for the pieces of a segment; one around the end may come back to the block where it began.
template <class Each> static void in_pieces(const side &of, int64_t k, const Each &each) {
    int64_t at = of.start[k], first = at / block, last = -1;
    for (int64_t done = 0; done < of.width[k];) {
        const int64_t b = at / block, within = at % block;
        int64_t length = block - within;
        if (length > of.width[k] - done) length = of.width[k] - done;
        if (length > of.size - at) length = of.size - at;
        each(b, within, done, length, done && (b == first || b == last));
        last = b;
        done += length;
        at += length;
        if (at == of.size) at = 0;
    }
}

static int64_t entries_of(const km_boxes *boxes, const side &of) {
    int64_t count = 0;
    for (int64_t k = 0; k < boxes->n_boxes; k++) {
        if (is_empty(boxes, k)) continue;
        const int64_t start = of.start[k], end = start + of.width[k];
        if (end <= of.size) {
            count += (end - 1) / block - start / block + 1;
        } else {
            const int64_t last = (end - of.size - 1) / block;
            count += blocks_of(of.size) - start / block + last + (last != start / block);
        }
    }
    return count;
}

template <class T> static int64_t side_bytes(int64_t entries, int64_t size) {
    return aligned((blocks_of(size) + 1) * 8) + aligned(entries * 4) + aligned(entries * block * int64_t(sizeof(T)));
}

template <class T> static int64_t packed_bytes(const km_boxes *boxes) {
    const side in = inputs(boxes), out = outputs(boxes);
    return aligned(sizeof(packed_boxes)) + side_bytes<T>(entries_of(boxes, in), in.size) +
           side_bytes<T>(entries_of(boxes, out), out.size);
}

// What packing needs beside: the boxes in order, where their numbers begin, and counts of the columns.
static int64_t pack_scratch_bytes(const km_boxes *boxes) { return (2 * boxes->n_boxes + boxes->n_in + 1) * 8; }

// The boxes that are not empty by their first column; returns how many there are.
static int64_t sort_boxes(const km_boxes *boxes, int64_t *order, int64_t *first) {
    const side in = inputs(boxes);
    for (int64_t i = 0; i <= in.size; i++) first[i] = 0;
    for (int64_t k = 0; k < boxes->n_boxes; k++)
        if (!is_empty(boxes, k)) first[in.start[k] + 1]++;
    for (int64_t i = 0; i < in.size; i++) first[i + 1] += first[i];
    const int64_t count = first[in.size];
    for (int64_t k = 0; k < boxes->n_boxes; k++)
        if (!is_empty(boxes, k)) order[first[in.start[k]]++] = k;
    return count;
}

// Packs one side at `base + at`; returns where it ends. Entries of a block stand in the order of the boxes.
template <class S, class T>
static int64_t pack_side(const km_boxes *all, const side &of, const int64_t *order, int64_t *offset, int64_t count,
                         char *base, int64_t at, packed_side *packed) {
    const int64_t blocks = blocks_of(of.size);
    packed->blocks = blocks;
    packed->begin = at;
    int64_t *begin = (int64_t *)(base + at);
    __builtin_memset(begin, 0, size_t(blocks + 1) * 8);
    for (int64_t i = 0; i < count; i++)
        in_pieces(of, order[i], [=](int64_t b, int64_t, int64_t, int64_t, bool again) { begin[b + 1] += !again; });
    for (int64_t b = 0; b < blocks; b++) begin[b + 1] += begin[b];
    const int64_t entries = begin[blocks];
    packed->boxes = at + aligned((blocks + 1) * 8);
    packed->weights = packed->boxes + aligned(entries * 4);
    int32_t *boxes = (int32_t *)(base + packed->boxes);
    T *weights = (T *)(base + packed->weights);
    __builtin_memset(weights, 0, size_t(entries * block) * sizeof(T));
    int64_t numbers = 0;
    for (int64_t k = 0; k < all->n_boxes; k++) {
        offset[k] = numbers;
        numbers += of.width[k];
    }
    // While it is filled, `begin` runs ahead to the end of each block.
    for (int64_t i = 0; i < count; i++) {
        const S *own = (const S *)of.numbers + offset[order[i]];
        in_pieces(of, order[i], [=](int64_t b, int64_t within, int64_t done, int64_t length, bool again) {
            const int64_t entry = again ? begin[b] - 1 : begin[b]++;
            boxes[entry] = int32_t(i);
            for (int64_t j = 0; j < length; j++) weights[entry * block + within + j] = T(widen(own[done + j]));
        });
    }
    for (int64_t b = blocks; b > 0; b--) begin[b] = begin[b - 1];
    begin[0] = 0;
    return packed->weights + aligned(entries * block * int64_t(sizeof(T)));
}

template <class S, class T> static void pack(const km_boxes *boxes, void *packed, void *scratch) {
    packed_boxes *head = (packed_boxes *)packed;
    int64_t *order = (int64_t *)scratch, *offset = order + boxes->n_boxes, *first = offset + boxes->n_boxes;
    head->n_in = boxes->n_in;
    head->n_out = boxes->n_out;
    head->n_boxes = sort_boxes(boxes, order, first);
    int64_t at = aligned(sizeof(packed_boxes));
    at = pack_side<S, T>(boxes, inputs(boxes), order, offset, head->n_boxes, (char *)packed, at, &head->in);
    pack_side<S, T>(boxes, outputs(boxes), order, offset, head->n_boxes, (char *)packed, at, &head->out);
}

}  // namespace segments

#endif
