// The versions of the residual passes for single instruction sets.
#pragma once

#include "ops/cpu/residual.h"

#define FD_RESIDUAL(ns)                                                          \
  namespace fastdecode {                                                         \
  namespace ns {                                                                 \
  double residual_mass(const ResidualRow& row);                                  \
  int32_t race_row(const ResidualRow& row, const Stream& stream);                \
  void reject_draw(RejectionState& state);                                       \
  int32_t race_weights(const double* weights, int64_t vocab, const Stream& stream); \
  }                                                                              \
  }
FD_RESIDUAL(scalar)
FD_RESIDUAL(avx2)
FD_RESIDUAL(avx512)
#undef FD_RESIDUAL
