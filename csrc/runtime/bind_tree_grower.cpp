// Python names of what grows draft trees from a head. Features arrive as float32 arrays [n, F].
#include "runtime/bind_tree_grower.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>

#include "runtime/tree_grower.h"

namespace py = pybind11;

namespace fastdecode {
namespace {

using Ids = py::array_t<int32_t, py::array::c_style>;
using Features = py::array_t<float, py::array::c_style>;

const float* rows_of(const Features& features, size_t tokens, const TreeGrower& grower) {
  if (features.ndim() != 2 || features.shape(0) != py::ssize_t(tokens) || features.shape(1) != grower.features()) {
    std::string shape;
    for (py::ssize_t i = 0; i < features.ndim(); ++i) shape += (i ? ", " : "") + std::to_string(features.shape(i));
    throw std::invalid_argument("features have shape [" + shape + "], the text and the head ask for [" + std::to_string(tokens) + ", " + std::to_string(grower.features()) + "]");
  }
  return features.data();
}

}  // namespace

void bind_tree_grower(py::module_& m) {
  py::class_<Growth>(m, "Growth")
      .def(py::init([](int32_t row, int32_t length, std::vector<int32_t> text, int32_t width, float min_score, int64_t levels, float least, std::vector<float> covered, float open_score) {
             if (text.empty()) throw std::invalid_argument("text is empty: a tree stands behind at least one token that the head has not read");
             return Growth{row, length, std::move(text), DynamicTree(width, min_score, open_score), levels, least, std::move(covered)};
           }),
           py::kw_only(), py::arg("row"), py::arg("length"), py::arg("text"), py::arg("width"), py::arg("min_score"), py::arg("levels"), py::arg("least") = 0.0f, py::arg("covered") = std::vector<float>{}, py::arg("open_score") = 0.0f)
      .def_property_readonly("worthwhile", &Growth::worthwhile)
      .def_readonly("row", &Growth::row)
      .def_readonly("length", &Growth::length)
      .def_property_readonly("tree", [](const Growth& g) { return &g.tree; }, py::return_value_policy::reference_internal);
  py::class_<TreeGrower>(m, "TreeGrower")
      .def(py::init([](Transformer& head, const Ids& vocabulary, int64_t children) { return std::make_unique<TreeGrower>(head, std::vector<int32_t>(vocabulary.data(), vocabulary.data() + vocabulary.size()), children); }), py::keep_alive<1, 2>(), py::arg("head"), py::arg("vocabulary"), py::arg("children"))
      .def_property_readonly("features", &TreeGrower::features)
      .def("read", [](TreeGrower& g, KvCache& cache, int32_t row, int32_t length, const std::vector<int32_t>& text, const Features& features) {
        const float* data = rows_of(features, text.size(), g);
        py::gil_scoped_release unlocked;
        g.read(cache, row, length, text, data);
      })
      .def("grow", [](TreeGrower& g, KvCache& cache, std::vector<Growth*> rows, const Features& features) {
        size_t tokens = 0;
        for (const Growth* row : rows) tokens += row->text.size();
        const float* data = rows_of(features, tokens, g);
        py::gil_scoped_release unlocked;
        return g.grow(cache, std::move(rows), data);
      });
}

}  // namespace fastdecode
