// Sums of boxes for Python: sizes fixed once, boxes and numbers by address, checked against each other on every use.
#ifndef KMATRIX_BOXES_H
#define KMATRIX_BOXES_H

#include "binding_support.h"
#include "calls.h"

namespace {

class Boxes {
  public:
    Boxes(int32_t dtype, int64_t n_in, int64_t n_out, int64_t n_boxes, int64_t n_left, int64_t n_right,
          const std::string &isa)
        : kernels(kernels_of(isa)) {
        number_bytes(dtype, name);
        if (dtype == KM_C64 || dtype == KM_C128) refuse("dtype", "no kernels for complex numbers", name);
        product({n_in, n_out}, "n_in, n_out", name);
        product({n_boxes}, "n_boxes", name);
        product({n_left}, "n_left", name);
        product({n_right}, "n_right", name);
        if (n_boxes > INT32_MAX) refuse("n_boxes", "more than 2^31 - 1", name);
        boxes = {dtype, n_in, n_out, n_boxes, nullptr, nullptr, nullptr, n_left, n_right};
        work = n_left + n_right;
    }
    Boxes(const Boxes &) = delete;

    int64_t packed_nbytes() const { return packed_bytes; }

    // Other threads see the new numbers when all of them are there; calls that still run with the old ones keep them.
    void pack(uintptr_t places, uintptr_t left, uintptr_t right) {
        const buffer own_places = allocate(places_bytes());
        const km_boxes described = checked(places, left, right, own_places.get());
        const int64_t bytes = kernels->boxes_packed_bytes(&described);
        std::shared_ptr<void> filled(allocate(bytes));
        const buffer own = allocate(kernels->boxes_pack_scratch_bytes(&described));
        {
            unlocked while_packing(work >= bytes_worth_releasing);
            kernels->boxes_pack(&described, filled.get(), own.get());
        }
        packed.swap(filled);
        packed_bytes = bytes;
    }

    // `bias` may be 0.
    void forward(uintptr_t x, int64_t x_row, int64_t x_column, uintptr_t y, int64_t y_row, int64_t y_column,
                 uintptr_t bias, int64_t batch, int64_t threads) const {
        const km_matrix from = matrix_of(x, x_row, x_column, batch, name);
        const km_matrix to = matrix_of(y, y_row, y_column, batch, name);
        threads = usable(batch, threads);
        const std::shared_ptr<void> held = packed;
        if (!held) throw std::runtime_error("Boxes: no numbers yet; call pack first");
        const int64_t own = kernels->boxes_scratch_bytes(&boxes);
        void *memory = scratch.at_least(own * threads + (boxes.n_out + 1) * 8);  // and a bias in the type of the sums
        unlocked while_computing(batch * work >= worth_releasing);
        kernels->boxes_forward(boxes.dtype, held.get(), from, to, (const void *)bias, batch, memory, own,
                               int32_t(threads));
        scratch.keep(kept_per_thread * threads);
    }

    void rows(uintptr_t places, uintptr_t left, uintptr_t right, uintptr_t x, int64_t x_row, int64_t x_column,
              uintptr_t y, int64_t y_row, int64_t y_column, uintptr_t bias, int64_t batch, int64_t threads) const {
        const km_matrix from = matrix_of(x, x_row, x_column, batch, name);
        const km_matrix to = matrix_of(y, y_row, y_column, batch, name);
        threads = usable(batch, threads);
        const int64_t own = places_bytes();
        char *memory = (char *)scratch.at_least(own + kernels->boxes_rows_scratch_bytes(&boxes, int32_t(threads)));
        const km_boxes described = checked(places, left, right, memory);
        unlocked while_computing(batch * work >= worth_releasing);
        kernels->boxes_rows(&described, from, to, (const void *)bias, batch, memory + own, int32_t(threads));
        scratch.keep(kept_per_thread * threads);
    }

    // The same for tensors as they come, up to `most` rows, if they are plain and fit; otherwise nothing happens. Where
    // only autograd stands in the way, it says so. `y` is new, so nothing overlaps.
    int run(nb::handle x, nb::handle left, nb::handle right, nb::handle places, nb::handle bias, nb::handle y,
            int64_t most, int64_t threads, bool grad_enabled) const {
        vectors from, to;
        if (!torch.describe || !vectors_of(x.ptr(), boxes.dtype, boxes.n_in, &from) || from.batch > most) return Call::NEW;
        if (!vectors_of(y.ptr(), boxes.dtype, boxes.n_out, &to) || to.batch != from.batch) return Call::NEW;
        const void *on_rows = flat(left.ptr(), boxes.n_left), *on_columns = flat(right.ptr(), boxes.n_right);
        const void *where = table(places.ptr());
        if (!on_rows || !on_columns || !where || lazily_negated(x.ptr())) return Call::NEW;
        const void *added = nullptr;
        if (!bias.is_none() && !(added = flat(bias.ptr(), boxes.n_out))) return Call::NEW;
        if (grad_enabled && (watched(x.ptr()) || watched(left.ptr()) || watched(right.ptr()))) return Call::WATCHED;
        if (grad_enabled && added && watched(bias.ptr())) return Call::NEW;  // the product alone is not watched
        rows(uintptr_t(where), uintptr_t(on_rows), uintptr_t(on_columns), uintptr_t(from.start), from.row, from.column,
             uintptr_t(to.start), to.row, to.column, uintptr_t(added), from.batch, threads);
        return Call::DONE;
    }

  private:
    // The numbers of a side, or null if this is no plain contiguous tensor of them.
    const void *flat(PyObject *tensor, int64_t count) const {
        dl_tensor now;
        if (!describe(tensor, &now) || !is_of(now, boxes.dtype) || now.ndim != 1 || now.shape[0] != count) return nullptr;
        return (count == 1 || now.strides[0] == 1) && !lazily_negated(tensor) ? now.data : nullptr;
    }

    const void *table(PyObject *tensor) const {
        dl_tensor now;
        if (!describe(tensor, &now) || now.code != DL_INT || now.bits != 64 || now.ndim != 2) return nullptr;
        if (now.shape[0] != 4 || now.shape[1] != boxes.n_boxes || now.strides[0] != boxes.n_boxes) return nullptr;
        return (boxes.n_boxes == 1 || now.strides[1] == 1) && !lazily_negated(tensor) ? now.data : nullptr;
    }

    int64_t places_bytes() const { return (4 * boxes.n_boxes * 8 + 63) / 64 * 64; }

    // The kernels read and write where the boxes say, so what is checked is what they are given: a copy in `own`, which
    // no other thread can write into.
    km_boxes checked(uintptr_t places, uintptr_t left, uintptr_t right, void *own) const {
        if (!places || !left || !right) refuse("places, left, right", "address 0", name);
        memcpy(own, (const void *)places, size_t(4 * boxes.n_boxes * 8));
        km_boxes described = boxes;
        described.places = (const int64_t *)own;
        described.left = (const void *)left;
        described.right = (const void *)right;
        const int64_t count = boxes.n_boxes, *row_start = described.places, *col_start = row_start + 2 * count;
        check_side(row_start, row_start + count, count, boxes.n_out, boxes.n_left, "rows");
        check_side(col_start, col_start + count, count, boxes.n_in, boxes.n_right, "columns");
        return described;
    }

    static void check_side(const int64_t *start, const int64_t *width, int64_t count, int64_t size, int64_t numbers,
                           const char *side) {
        // The signs collect: a start below 0 or beyond the last place, a width below 0 or beyond the side; more numbers
        // than there are, seen at once and not when the sum has gone around.
        uint64_t sum = 0, wrong = 0, more = 0;
        for (int64_t k = 0; k < count; k++) {
            const uint64_t s = uint64_t(start[k]), w = uint64_t(width[k]);
            wrong |= s | (uint64_t(size - 1) - s) | w | (uint64_t(size) - w);
            sum += w;
            more |= uint64_t(numbers) - sum;
        }
        if (wrong >> 63) throw std::out_of_range(std::string("Boxes: places: a box outside of the ") + side);
        if (more >> 63 || sum != uint64_t(numbers))
            throw std::out_of_range(std::string("Boxes: places: widths that do not add up to the numbers of the ") + side);
    }

    static int64_t usable(int64_t batch, int64_t threads) {
        if (batch < 1) refuse("batch", "below 1", name);
        if (threads < 1) refuse("threads", "below 1", name);
        return forked ? 1 : threads > most_threads ? most_threads : threads;
    }

    static constexpr const char *name = "Boxes";
    const km_kernels *kernels;
    km_boxes boxes = {};
    int64_t work = 0, packed_bytes = 0;
    std::shared_ptr<void> packed;
};

void bind_boxes(nb::module_ &m) {
    nb::class_<Boxes>(m, "Boxes")
        .def(nb::init<int32_t, int64_t, int64_t, int64_t, int64_t, int64_t, const std::string &>(), nb::arg("dtype"),
             nb::arg("n_in"), nb::arg("n_out"), nb::arg("n_boxes"), nb::arg("n_left"), nb::arg("n_right"),
             nb::arg("isa") = "")
        .def_prop_ro("packed_nbytes", &Boxes::packed_nbytes)
        .def("pack", &Boxes::pack)
        .def("forward", &Boxes::forward)
        .def("rows", &Boxes::rows)
        .def("run", &Boxes::run, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg(),
             nb::arg(), nb::arg());
}

}  // namespace

#endif
