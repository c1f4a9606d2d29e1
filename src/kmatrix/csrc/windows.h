// Rows under masks for Python: sizes and windows checked against each other on every call, memory by address.
#ifndef KMATRIX_WINDOWS_H
#define KMATRIX_WINDOWS_H

#include <cstring>

#include "binding_support.h"

namespace {

constexpr const char *windows_name = "Windows";

// One table of masks, `length` numbers of the staircase and behind them as many of its slope.
class Windows {
  public:
    Windows(int32_t dtype, int64_t length, const std::string &isa) : kernels(kernels_of(isa)), dtype(dtype), length(length) {
        if (dtype != KM_F32 && dtype != KM_F64) refuse("dtype", "neither float32 nor float64", windows_name);
        product({2, length}, "length", windows_name);
    }

    // Everything contiguous, rows of `size` numbers; `out` is not the content.
    void masked(uintptr_t table, uintptr_t content, uintptr_t first, uintptr_t last, uintptr_t out, int64_t rows,
                int64_t size, int64_t threads) const {
        if (!out) refuse("out", "address 0", windows_name);
        const km_windows described = checked(table, content, first, last, rows, size);
        threads = usable(threads);
        unlocked while_computing(rows * size >= worth_releasing);
        kernels->masked(&described, (void *)out, int32_t(threads));
    }

    // `to_width` and `to_start` hold one number for each row.
    void gradients(uintptr_t table, uintptr_t grad, uintptr_t content, uintptr_t first, uintptr_t last,
                   uintptr_t to_content, uintptr_t to_width, uintptr_t to_start, int64_t rows, int64_t size,
                   int64_t threads) const {
        if (!grad || !to_content || !to_width || !to_start) refuse("gradients", "address 0", windows_name);
        const km_windows described = checked(table, content, first, last, rows, size);
        threads = usable(threads);
        unlocked while_computing(rows * size >= worth_releasing);
        kernels->masked_gradients(&described, (const void *)grad, (void *)to_content, (void *)to_width,
                                  (void *)to_start, int32_t(threads));
    }

  private:
    // The kernels read where the windows say, so what is checked is what they are given: a copy.
    km_windows checked(uintptr_t table, uintptr_t content, uintptr_t first, uintptr_t last, int64_t rows,
                       int64_t size) const {
        if (!table || !content || !first || !last) refuse("table, content, first, last", "address 0", windows_name);
        product({rows, size}, "rows, size", windows_name);
        if (size > length) refuse("size", "longer than the table", windows_name);
        int64_t *own = (int64_t *)scratch.at_least(2 * rows * 8);
        memcpy(own, (const void *)first, size_t(rows * 8));
        memcpy(own + rows, (const void *)last, size_t(rows * 8));
        uint64_t wrong = 0;  // the signs collect
        for (int64_t k = 0; k < 2 * rows; k++) wrong |= uint64_t(own[k]) | (uint64_t(length - size) - uint64_t(own[k]));
        if (wrong >> 63) throw std::out_of_range("Windows: a window outside of the table");
        const char *slopes = (const char *)table + length * number_bytes(dtype, windows_name);
        return {dtype, rows, size, (const void *)content, own, own + rows, (const void *)table, slopes, length};
    }

    static int64_t usable(int64_t threads) {
        if (threads < 1) refuse("threads", "below 1", windows_name);
        return forked ? 1 : threads > most_threads ? most_threads : threads;
    }

    const km_kernels *kernels;
    int32_t dtype;
    int64_t length;
};

void bind_windows(nb::module_ &m) {
    nb::class_<Windows>(m, "Windows")
        .def(nb::init<int32_t, int64_t, const std::string &>(), nb::arg("dtype"), nb::arg("length"), nb::arg("isa") = "")
        .def("masked", &Windows::masked)
        .def("gradients", &Windows::gradients);
}

}  // namespace

#endif
