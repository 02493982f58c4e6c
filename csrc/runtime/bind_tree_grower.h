#pragma once

#include <pybind11/pybind11.h>

namespace fastdecode {

void bind_tree_grower(pybind11::module_& m);

}  // namespace fastdecode
