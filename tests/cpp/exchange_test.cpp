// exchange_test.cpp -- the exchanges of bench/micro: everybody reads what everybody published, every time.
#include "exchange.h"

#include "rows.h"
#include "support.h"

using namespace hd;
using namespace hd::micro;
using namespace hd::test;

using Launch = void (*)(const ExchangeArgs&, unsigned, hdStream);

static void push(const ExchangeArgs& args, unsigned blocks, hdStream stream) {
  launch_cluster_push(args, blocks, blocks, stream);
}

// Two launches in a row, as a graph would replay them, on counters that nobody resets.
static void check(Launch launch, unsigned blocks, int steps, unsigned threads, double words) {
  for_each_schedule([&] {
    std::vector<uint32_t> flags(blocks, 0xfffffff0u);  // near the end, so that they run over
    std::vector<uint64_t> slots(2 * EXCHANGE_WORDS, 0);
    Buffer data(2 * EXCHANGE_WORDS), sums(blocks * threads);
    ExchangeArgs args{flags.data(), data, slots.data(), sums, 0xfffffff0u, steps};
    for (int turn = 0; turn < 2; ++turn, args.first += uint32_t(steps)) {
      launch(args, blocks, STREAM);
      double want = 0;
      for (uint32_t s = 0; s < uint32_t(steps); ++s)
        for (uint32_t b = 0; b < blocks; ++b) want += words * exchanged(args.first + s + 1, b);
      for (unsigned b = 0; b < blocks; ++b) {
        double got = 0;
        for (unsigned t = 0; t < threads; ++t) got += sums[b * threads + t];
        EXPECT_EQ(got, want) << "block " << b << " in launch " << turn;
      }
    }
    return bits_of(sums);
  });
}

// Small: every thread that polls is a fiber that takes its turn.
TEST(Exchange, Flags) { check(launch_exchange_flags, 4, 5, EXCHANGE_THREADS, EXCHANGE_WORDS / 4); }
TEST(Exchange, Words) { check(launch_exchange_words, 4, 5, EXCHANGE_THREADS, EXCHANGE_WORDS / 4); }
TEST(Exchange, Push) { check(push, 3, 5, PUSH_THREADS, PUSH_BYTES / 4); }

#ifndef __SANITIZE_THREAD__  // has no memory for so many fibers
TEST(Exchange, FlagsOfMoreBlocksThanLanes) {
  check(launch_exchange_flags, 64, 1, EXCHANGE_THREADS, EXCHANGE_WORDS / 64);
}
TEST(Exchange, PushOfMoreBlocksThanWarps) { check(push, 17, 1, PUSH_THREADS, PUSH_BYTES / 4); }
#endif

TEST(Exchange, Barriers) {
  for_each_schedule([] {
    Buffer sums(2 * 4 * EXCHANGE_THREADS);
    launch_grid_barrier({nullptr, nullptr, nullptr, sums, 0, 3}, 4, STREAM);
    launch_cluster_barrier({nullptr, nullptr, nullptr, sums + 4 * EXCHANGE_THREADS, 0, 3}, 4, 4, STREAM);
    EXPECT_EQ(sums.values(), Vec(2 * 4 * EXCHANGE_THREADS, 3.0));
    return bits_of(sums);
  });
}

TEST(Exchange, L2Read) {
  for_each_schedule([] {
    Buffer data(Vec(4 * 1000, 0.5)), sums(2 * L2_THREADS);
    launch_l2_read({data, sums, 4 * 1000, 3}, 2, STREAM);
    double total = 0;
    for (double x : sums.values()) total += x;
    EXPECT_EQ(total, 3 * 4 * 1000 * 0.5);
    return bits_of(sums);
  });
}

TEST(Rows, AreLinesOfJson) {
  EXPECT_EQ(row_text("a case", 1.25, "us", 1.2, "a note"),
            R"({"step": "exchange", "case": "a case", "precision": "", "value": 1.25, "unit": "us", )"
            R"("expected": 1.2, "note": "a note"})");
  EXPECT_EQ(row_text("bad \"case\"", NAN, "us", NAN, "line\nbreak"),
            R"({"step": "exchange", "case": "bad 'case'", "precision": "", "value": null, "unit": "us", )"
            R"("expected": null, "note": "line break"})");
}
