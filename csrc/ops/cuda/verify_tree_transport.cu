#include "fastdecode/verify_tree_transport.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void transport_plan(const TransportPlanArgs& a, void* stream) { launch("transport_plan", transport_plan_kernel, a.rows, row_threads(a.vocab), stream, a); }
void verify_tree_transport(const VerifyTreeTransportArgs& a, void* stream) { launch("verify_tree_transport", verify_tree_transport_kernel, a.batch, row_threads(a.vocab), stream, a); }

}  // namespace cuda
}  // namespace fastdecode
