// main.cu -- what the performance model assumes of exchanges and launches, measured: one line of JSON a row, on
// standard output, as hdfast.bench.report reads them.
//
//   micro            everything; a row that fails says why, and the others go on
//
// Times of exchanges are slopes between two lengths of one launch, medians of several: launches drop out.
#define HD_USE_GRID_SYNC
#include <algorithm>
#include <functional>
#include <stdexcept>
#include <vector>

#include "cluster.h"
#include "launches.cuh"
#include "rows.h"

namespace hd::micro {
namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}
#define CHECK(call) check(call, #call)

constexpr int SHORT = 1000, LONG = 3000, ROUNDS = 7;

template <class T>
struct Device {  // zeroed memory on the device
  T* data = nullptr;
  size_t count;
  explicit Device(size_t n) : count(n) {
    CHECK(cudaMalloc(&data, n * sizeof(T)));
    CHECK(cudaMemset(data, 0, n * sizeof(T)));
  }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data); }
  std::vector<T> host() const {
    std::vector<T> out(count);
    CHECK(cudaMemcpy(out.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }
};

struct Stream {
  cudaStream_t stream = nullptr;
  explicit Stream(int priority = 0) {
    CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority));
  }
  Stream(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream); }
};

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

// Microseconds on the device from the start of `run` to its end.
double microseconds(cudaStream_t stream, const std::function<void()>& run) {
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  CHECK(cudaEventRecord(begin, stream));
  run();
  CHECK(cudaEventRecord(end, stream));
  CHECK(cudaEventSynchronize(end));
  float milliseconds = 0;
  CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return 1e3 * milliseconds;
}

using Measure = std::function<double(std::string& note)>;

// Whether a row failed in a way that leaves the device unusable.
bool row(const std::string& name, const std::string& unit, double expected, const Measure& measure) {
  std::string note;
  double value = NAN;
  try {
    value = measure(note);
  } catch (const std::exception& error) {
    note = error.what();
  }
  puts(row_text(name, value, unit, expected, note).c_str());
  fflush(stdout);
  return cudaDeviceSynchronize() != cudaSuccess;
}

using Launch = std::function<void(const ExchangeArgs&, cudaStream_t)>;

// Microseconds of one of many exchanges; `words` is what a thread's block adds up of each block, 0: nothing to check.
double exchange(const Launch& launch, unsigned blocks, unsigned group, unsigned threads, double words) {
  Stream stream;
  Device<uint32_t> flags(blocks);
  Device<float> slots(2 * EXCHANGE_WORDS), sums(blocks * threads);
  Device<uint64_t> cells(2 * EXCHANGE_WORDS);
  ExchangeArgs args{flags.data, slots.data, cells.data, sums.data, 0, 0};
  const auto timed = [&](int steps) {
    args.steps = steps;
    const double time = microseconds(stream.stream, [&] { launch(args, stream.stream); });
    double want = 0;
    for (uint32_t s = 0; s < uint32_t(steps); ++s)
      for (uint32_t b = 0; b < group; ++b) want += words * exchanged(args.first + s + 1, b);
    const std::vector<float> found = sums.host();
    for (unsigned b = 0; b < blocks && words; ++b) {
      double got = 0;
      for (unsigned t = 0; t < threads; ++t) got += found[b * threads + t];
      if (got != want) throw std::runtime_error("block " + std::to_string(b) + " read wrong words");
    }
    args.first += uint32_t(steps);
    return time;
  };
  timed(SHORT);
  std::vector<double> slopes;
  for (int i = 0; i < ROUNDS; ++i) {
    const double less = timed(SHORT);
    slopes.push_back((timed(LONG) - less) / (LONG - SHORT));
  }
  return median(slopes);
}

struct Captured {  // what `record` launches on `stream`, as a graph that keeps priorities
  cudaGraphExec_t exec = nullptr;
  Captured(cudaStream_t stream, const std::function<void()>& record) {
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    try {
      record();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      throw;
    }
    CHECK(cudaStreamEndCapture(stream, &graph));
    const cudaError_t error = cudaGraphInstantiate(&exec, graph, cudaGraphInstantiateFlagUseNodePriority);
    cudaGraphDestroy(graph);
    check(error, "cudaGraphInstantiate");
  }
  Captured(const Captured&) = delete;
  ~Captured() { cudaGraphExecDestroy(exec); }
};

double graph_node() {
  constexpr int NODES = 200;
  Stream stream;
  Device<unsigned long long> at(1);
  Captured graph(stream.stream, [&] {
    for (int i = 0; i < NODES; ++i) HD_LAUNCH(stamp_kernel, 1, 1, 0, stream.stream, at.data);
  });
  std::vector<double> times;
  for (int i = 0; i < ROUNDS; ++i)
    times.push_back(microseconds(stream.stream, [&] { CHECK(cudaGraphLaunch(graph.exec, stream.stream)); }));
  return median(times) / NODES;
}

// Microseconds from the kernel before a fork in a graph until `gang`, on a stream of higher priority, is running, while
// `load` waves of ordinary blocks of 10 us run on the other branch. The note tells when all of it was running.
double gang_start(const std::function<void(unsigned long long*, cudaStream_t)>& gang, unsigned load,
                  std::string& note) {
  int least = 0, greatest = 0;
  CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  Stream main(least), high(greatest);
  Device<unsigned long long> at(3);
  cudaEvent_t fork, join;
  CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  CHECK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  Captured graph(main.stream, [&] {
    HD_LAUNCH(stamp_kernel, 1, 1, 0, main.stream, at.data);
    CHECK(cudaEventRecord(fork, main.stream));
    CHECK(cudaStreamWaitEvent(high.stream, fork, 0));
    if (load) HD_LAUNCH(busy_kernel, load, EXCHANGE_THREADS, 0, main.stream, 10000ull);
    gang(at.data + 1, high.stream);
    CHECK(cudaEventRecord(join, high.stream));
    CHECK(cudaStreamWaitEvent(main.stream, join, 0));
  });
  std::vector<double> first, all;
  for (int i = 0; i < ROUNDS + 1; ++i) {
    CHECK(cudaGraphLaunch(graph.exec, main.stream));
    CHECK(cudaStreamSynchronize(main.stream));
    const std::vector<unsigned long long> t = at.host();
    if (i) first.push_back(1e-3 * double(t[1] - t[0])), all.push_back(1e-3 * double(t[2] - t[0]));
  }
  cudaEventDestroy(fork);
  cudaEventDestroy(join);
  note = "all of it after " + std::to_string(median(all)) + " us";
  return median(first);
}

double l2_bandwidth(unsigned processors) {
  constexpr int64_t FLOATS = 4 << 20;  // 16 MiB
  Stream stream;
  Device<float> data(FLOATS), sums(processors * 2 * L2_THREADS);
  const auto timed = [&](int repeats) {
    return microseconds(stream.stream, [&] {
      launch_l2_read({data.data, sums.data, FLOATS, repeats}, processors * 2, stream.stream);
    });
  };
  timed(10);
  std::vector<double> slopes;
  for (int i = 0; i < ROUNDS; ++i) {
    const double less = timed(10);
    slopes.push_back((timed(110) - less) / 100);
  }
  return 1e-6 * 4.0 * double(FLOATS) / median(slopes);
}

// Clusters of `size` blocks with 200 KiB of shared memory each that the device holds at once.
double clusters_at_once(unsigned size) {
  constexpr int SHARED = 200 << 10;
  CHECK(cudaFuncSetAttribute(cluster_gang_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
  CHECK(cudaFuncSetAttribute(cluster_gang_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchAttribute dimension{};
  dimension.id = cudaLaunchAttributeClusterDimension;
  dimension.val.clusterDim = {size, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = size, config.blockDim = EXCHANGE_THREADS, config.dynamicSmemBytes = SHARED;
  config.attrs = &dimension, config.numAttrs = 1;
  int count = 0;
  CHECK(cudaOccupancyMaxActiveClusters(&count, cluster_gang_kernel, &config));
  return count;
}

void launch_cluster_gang(unsigned long long* at, cudaStream_t stream) {
  cudaLaunchAttribute dimension{};
  dimension.id = cudaLaunchAttributeClusterDimension;
  dimension.val.clusterDim = {8, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = 32, config.blockDim = EXCHANGE_THREADS, config.stream = stream;
  config.attrs = &dimension, config.numAttrs = 1;
  CHECK(cudaLaunchKernelEx(&config, cluster_gang_kernel, at));
}

int measure() {
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  const unsigned processors = unsigned(device.multiProcessorCount);
  bool dead = false;
  const auto add = [&](const std::string& name, const std::string& unit, double expected, const Measure& m) {
    if (!dead) dead = row(name, unit, expected, m);
  };
  add("graph node of one thread", "us", 1.2, [](std::string&) { return graph_node(); });
  for (unsigned blocks : {32u, 64u}) {
    const std::string among = " among " + std::to_string(blocks) + " blocks";
    const double words = double(EXCHANGE_WORDS) / blocks;
    add("exchange of 16 KiB by flags" + among, "us", 1.2, [=](std::string&) {
      return exchange([=](auto& a, auto s) { launch_exchange_flags(a, blocks, s); }, blocks, blocks, EXCHANGE_THREADS,
                      words);
    });
    add("exchange of 16 KiB by flagged words" + among, "us", 0.75, [=](std::string&) {
      return exchange([=](auto& a, auto s) { launch_exchange_words(a, blocks, s); }, blocks, blocks, EXCHANGE_THREADS,
                      words);
    });
  }
  for (unsigned blocks : {32u, processors})
    add("grid barrier of " + std::to_string(blocks) + " blocks", "us", NAN, [=](std::string&) {
      return exchange([=](auto& a, auto s) { launch_grid_barrier(a, blocks, s); }, blocks, 0, EXCHANGE_THREADS, 0);
    });
  add("reading 16 MiB in L2", "TB/s", 5.0, [=](std::string&) { return l2_bandwidth(processors); });
  const auto gang = [](unsigned long long* at, cudaStream_t s) {
    HD_LAUNCH_COOP(gang_kernel, 32, EXCHANGE_THREADS, 0, s, at);
  };
  add("cooperative launch in a graph", "us", 5.0, [&](std::string& note) { return gang_start(gang, 0, note); });
  add("cooperative launch in a graph, beside ordinary blocks", "us", 5.0,
      [&](std::string& note) { return gang_start(gang, 64 * processors, note); });
  if (device.major < 9) return dead;
  for (unsigned size : {8u, 16u}) {
    const std::string of = " in clusters of " + std::to_string(size);
    add("barrier" + of, "us", NAN, [=](std::string&) {
      return exchange([=](auto& a, auto s) { launch_cluster_barrier(a, 32, size, s); }, 32, 0, EXCHANGE_THREADS, 0);
    });
    add("exchange through shared memory" + of, "us", size == 16 ? 0.28 : NAN, [=](std::string&) {
      return exchange([=](auto& a, auto s) { launch_cluster_push(a, 32, size, s); }, 32, size, PUSH_THREADS,
                      PUSH_BYTES / 4);
    });
    add("clusters of " + std::to_string(size) + " with 200 KiB at once", "", size == 16 ? 2 : NAN,
        [=](std::string&) { return clusters_at_once(size); });
  }
  add("cluster launch in a graph", "us", 5.0,
      [&](std::string& note) { return gang_start(launch_cluster_gang, 0, note); });
  add("cluster launch in a graph, beside ordinary blocks", "us", 5.0,
      [&](std::string& note) { return gang_start(launch_cluster_gang, 64 * processors, note); });
  return dead;
}

}  // namespace
}  // namespace hd::micro

int main() {
  try {
    return hd::micro::measure();
  } catch (const std::exception& error) {
    fprintf(stderr, "micro: %s\n", error.what());
    return 1;
  }
}
