// Launchers of exchange.h.
#define HD_USE_GRID_SYNC
#include "exchange.cuh"

namespace hd::micro {
namespace {

#ifdef __CUDACC__
void launch_clusters(void (*kernel)(ExchangeArgs), const ExchangeArgs& args, unsigned blocks, unsigned cluster,
                     unsigned threads, size_t shared, hdStream stream) {
  cudaLaunchAttribute size{};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = blocks, config.blockDim = threads, config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &size, config.numAttrs = 1;
  if (cluster > 8) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    check_launch(error, "a cluster kernel", __FILE__, __LINE__);
  }
  check_launch(cudaLaunchKernelEx(&config, kernel, args), "a cluster kernel", __FILE__, __LINE__);
}
#else
void launch_clusters(void (*kernel)(ExchangeArgs), const ExchangeArgs& args, unsigned blocks, unsigned,
                     unsigned threads, size_t shared, hdStream stream) {
  HD_LAUNCH_COOP(kernel, blocks, threads, shared, stream, args);
}
#endif

}  // namespace

void launch_exchange_flags(const ExchangeArgs& args, unsigned blocks, hdStream stream) {
  HD_LAUNCH_COOP(exchange_flags_kernel, blocks, EXCHANGE_THREADS, 0, stream, args);
}

void launch_exchange_words(const ExchangeArgs& args, unsigned blocks, hdStream stream) {
  HD_LAUNCH_COOP(exchange_words_kernel, blocks, EXCHANGE_THREADS, 0, stream, args);
}

void launch_grid_barrier(const ExchangeArgs& args, unsigned blocks, hdStream stream) {
  HD_LAUNCH_COOP(grid_barrier_kernel, blocks, EXCHANGE_THREADS, 0, stream, args);
}

void launch_cluster_push(const ExchangeArgs& args, unsigned blocks, unsigned cluster, hdStream stream) {
  const size_t shared = 2 * cluster * PUSH_BYTES + 2 * sizeof(uint64_t);
  launch_clusters(cluster_push_kernel, args, blocks, cluster, PUSH_THREADS, shared, stream);
}

void launch_cluster_barrier(const ExchangeArgs& args, unsigned blocks, unsigned cluster, hdStream stream) {
  launch_clusters(cluster_barrier_kernel, args, blocks, cluster, EXCHANGE_THREADS, 0, stream);
}

void launch_l2_read(const L2Args& args, unsigned blocks, hdStream stream) {
  HD_LAUNCH(l2_read_kernel, blocks, L2_THREADS, 0, stream, args);
}

}  // namespace hd::micro
