// ThreadPool: every task runs once, on a worker of its own number; a taken pool makes nobody wait.
#include "core/runtime/thread_pool.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "core/runtime/fp_control.h"
#include "gtest/gtest.h"

namespace kvg {
namespace {

struct Tally {
  explicit Tally(uint64_t n) : runs(n) {}
  std::vector<std::atomic<uint32_t>> runs;  // of each task
  std::vector<uint64_t> by_worker = std::vector<uint64_t>(ThreadPool::kMaxThreads + 1);
};

void CountRun(void* ctx, uint64_t i, uint32_t worker) {
  Tally& tally = *static_cast<Tally*>(ctx);
  tally.runs[i].fetch_add(1, std::memory_order_relaxed);
  ++tally.by_worker[worker];  // unsynchronised: one thread at a time has a worker number
}

void RunAndCheck(const ops::Parallel& parallel, uint64_t n) {
  Tally tally(n);
  parallel.run(parallel.self, n, CountRun, &tally);
  for (uint64_t i = 0; i < n; ++i) ASSERT_EQ(tally.runs[i].load(), 1u) << "task " << i << " of " << n;
  uint64_t sum = 0;
  for (size_t w = 0; w < tally.by_worker.size(); ++w) {
    if (w >= parallel.workers) {
      ASSERT_EQ(tally.by_worker[w], 0u) << "worker " << w;
    }
    sum += tally.by_worker[w];
  }
  ASSERT_EQ(sum, n);
}

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const uint32_t threads : {0u, 1u, 2u, 3u, 7u}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    const ThreadPool::Lease lease = pool.Acquire();
    const ops::Parallel parallel = lease.parallel();
    EXPECT_EQ(parallel.workers, threads + 1);
    for (const uint64_t n : {0u, 1u, 2u, 3u, 5u, 64u, 1000u}) RunAndCheck(parallel, n);
  }
}

TEST(ThreadPool, ManySmallJobsInARow) {
  ThreadPool pool(3);
  for (uint64_t job = 0; job < 5000; ++job) {
    const ThreadPool::Lease lease = pool.Acquire();
    ASSERT_EQ(lease.parallel().workers, 4u);
    RunAndCheck(lease.parallel(), job % 9);
  }
}

TEST(ThreadPool, WorkersAreOtherThreads) {
  ThreadPool pool(2);
  const ThreadPool::Lease lease = pool.Acquire();
  const ops::Parallel parallel = lease.parallel();
  // Every task waits for the others: the job ends only if three threads run at the same time.
  struct Meeting {
    std::atomic<uint32_t> arrived{0};
    std::thread::id ids[3];
  } meeting;
  parallel.run(
      parallel.self, 3,
      [](void* ctx, uint64_t, uint32_t worker) {
        Meeting& m = *static_cast<Meeting*>(ctx);
        m.ids[worker] = std::this_thread::get_id();
        m.arrived.fetch_add(1);
        while (m.arrived.load() < 3) std::this_thread::yield();
      },
      &meeting);
  EXPECT_EQ(meeting.ids[0], std::this_thread::get_id());
  EXPECT_NE(meeting.ids[0], meeting.ids[1]);
  EXPECT_NE(meeting.ids[0], meeting.ids[2]);
  EXPECT_NE(meeting.ids[1], meeting.ids[2]);
}

TEST(ThreadPool, ResultsAreSeenByTheCaller) {
  ThreadPool pool(2);
  const ThreadPool::Lease lease = pool.Acquire();
  const ops::Parallel parallel = lease.parallel();
  std::vector<uint64_t> squares(300);
  for (uint64_t round = 1; round <= 200; ++round) {
    struct Job {
      std::vector<uint64_t>* out;
      uint64_t round;
    } job{&squares, round};
    parallel.run(
        parallel.self, squares.size(),
        [](void* ctx, uint64_t i, uint32_t) {
          const Job& j = *static_cast<Job*>(ctx);
          (*j.out)[i] = i * i + j.round;
        },
        &job);
    for (uint64_t i = 0; i < squares.size(); ++i) ASSERT_EQ(squares[i], i * i + round);
  }
}

TEST(ThreadPool, ATakenPoolGivesTheCallersThread) {
  ThreadPool pool(2);
  {
    const ThreadPool::Lease first = pool.Acquire();
    EXPECT_EQ(first.parallel().workers, 3u);
    const ThreadPool::Lease second = pool.Acquire();
    EXPECT_EQ(second.parallel().workers, 1u);
    RunAndCheck(second.parallel(), 50);
    RunAndCheck(first.parallel(), 50);
  }
  EXPECT_EQ(pool.Acquire().parallel().workers, 3u);  // both given back
}

TEST(ThreadPool, AMovedLeaseIsGivenBackOnce) {
  ThreadPool pool(1);
  {
    ThreadPool::Lease first = pool.Acquire();
    const ThreadPool::Lease second = std::move(first);
    EXPECT_EQ(second.parallel().workers, 2u);
    { const ThreadPool::Lease gone = std::move(first); }
    EXPECT_EQ(pool.Acquire().parallel().workers, 1u);  // second still has it
  }
  EXPECT_EQ(pool.Acquire().parallel().workers, 2u);
}

TEST(ThreadPool, NestedCallsRunInline) {
  ThreadPool pool(2);
  const ThreadPool::Lease lease = pool.Acquire();
  const ops::Parallel parallel = lease.parallel();
  struct Job {
    ThreadPool* pool;
    std::atomic<uint64_t> inner{0};
    std::atomic<bool> shared{false};
  } job{&pool};
  parallel.run(
      parallel.self, 20,
      [](void* ctx, uint64_t, uint32_t) {
        Job& j = *static_cast<Job*>(ctx);
        const ThreadPool::Lease inner = j.pool->Acquire();
        const ops::Parallel p = inner.parallel();
        if (p.workers != 1) j.shared = true;
        p.run(
            p.self, 10,
            [](void* c, uint64_t, uint32_t) { static_cast<Job*>(c)->inner.fetch_add(1); }, &j);
      },
      &job);
  EXPECT_EQ(job.inner.load(), 200u);
  EXPECT_FALSE(job.shared.load());
}

TEST(ThreadPool, ConcurrentCallersDoNotDisturbEachOther) {
  ThreadPool pool(2);
  std::vector<std::thread> callers;
  std::atomic<uint32_t> shared{0};
  for (uint64_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&pool, &shared, caller] {
      for (uint64_t job = 0; job < 500; ++job) {
        const ThreadPool::Lease lease = pool.Acquire();
        if (lease.parallel().workers > 1) shared.fetch_add(1);
        RunAndCheck(lease.parallel(), (job + caller) % 7);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_GT(shared.load(), 0u);
}

TEST(ThreadPool, SleepingWorkersWakeUp) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));  // past the spinning
    const ThreadPool::Lease lease = pool.Acquire();
    const ops::Parallel parallel = lease.parallel();
    std::atomic<uint32_t> arrived{0};
    parallel.run(
        parallel.self, 3,
        [](void* ctx, uint64_t, uint32_t) {
          auto& count = *static_cast<std::atomic<uint32_t>*>(ctx);
          count.fetch_add(1);
          while (count.load() < 3) std::this_thread::yield();
        },
        &arrived);
    EXPECT_EQ(arrived.load(), 3u);
  }
}

TEST(ThreadPool, CreatedAndDestroyedAtOnce) {
  for (int i = 0; i < 100; ++i) ThreadPool pool(4);
}

TEST(ThreadPool, WorkersTakeTheCallersRounding) {
#if defined(__x86_64__) || defined(__aarch64__)
  ThreadPool pool(1);
  const ThreadPool::Lease lease = pool.Acquire();
  const ops::Parallel parallel = lease.parallel();
  struct Job {
    std::atomic<uint32_t> arrived{0};
    float half_min[2];
  } job;
  const auto halve_smallest_normal = [](void* ctx, uint64_t, uint32_t worker) {
    Job& j = *static_cast<Job*>(ctx);
    volatile float x = std::numeric_limits<float>::min();
    j.half_min[worker] = x * 0.5f;
    j.arrived.fetch_add(1);
    while (j.arrived.load() < 2) std::this_thread::yield();
  };
  const uint64_t before = GetFpControl();
#if defined(__x86_64__)
  SetFpControl(before | 0x8000);  // flush subnormal results to zero
#else
  SetFpControl(before | (1u << 24));
#endif
  parallel.run(parallel.self, 2, halve_smallest_normal, &job);
  SetFpControl(before);
  EXPECT_EQ(job.half_min[0], 0.0f);
  EXPECT_EQ(job.half_min[1], 0.0f);
  job.arrived = 0;
  parallel.run(parallel.self, 2, halve_smallest_normal, &job);
  EXPECT_GT(job.half_min[0], 0.0f);
  EXPECT_GT(job.half_min[1], 0.0f);
#endif
}

TEST(ThreadPool, WorkersLeaveSignalsToTheHost) {
  ThreadPool pool(1);
  sigset_t mine;
  pthread_sigmask(SIG_SETMASK, nullptr, &mine);
  EXPECT_EQ(sigismember(&mine, SIGTERM), 0);  // creation put the caller's mask back
  const ThreadPool::Lease lease = pool.Acquire();
  const ops::Parallel parallel = lease.parallel();
  struct Job {
    std::atomic<uint32_t> arrived{0};
    std::atomic<int> term_blocked{-1}, fault_blocked{-1};
  } job;
  parallel.run(
      parallel.self, 2,
      [](void* ctx, uint64_t, uint32_t worker) {
        Job& j = *static_cast<Job*>(ctx);
        if (worker == 1) {
          sigset_t set;
          pthread_sigmask(SIG_SETMASK, nullptr, &set);
          j.term_blocked = sigismember(&set, SIGTERM);
          j.fault_blocked = sigismember(&set, SIGSEGV);
        }
        j.arrived.fetch_add(1);
        while (j.arrived.load() < 2) std::this_thread::yield();
      },
      &job);
  EXPECT_EQ(job.term_blocked.load(), 1);
  EXPECT_EQ(job.fault_blocked.load(), 0);
}

TEST(ThreadPool, AForkedChildWorksAlone) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the thread sanitizer does not follow a fork of a process with threads";
#endif
  auto pool = std::make_unique<ThreadPool>(2);
  RunAndCheck(pool->Acquire().parallel(), 100);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::atomic<uint64_t> runs{0};
    {
      const ThreadPool::Lease lease = pool->Acquire();
      const ops::Parallel parallel = lease.parallel();
      parallel.run(
          parallel.self, 100,
          [](void* ctx, uint64_t, uint32_t) {
            static_cast<std::atomic<uint64_t>*>(ctx)->fetch_add(1);
          },
          &runs);
    }
    pool.reset();  // must not wait for threads that the child does not have
    _exit(runs.load() == 100 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  RunAndCheck(pool->Acquire().parallel(), 100);  // and the parent's pool is as it was
}

}  // namespace
}  // namespace kvg
