// ThreadPool: one job at a time, entered by whichever workers are awake. See thread_pool.h.
//
// The caller opens a job, claims tasks like everyone else, closes the job when no task is left, and
// waits only for workers that had entered it. A worker that the system wakes late finds the job
// closed and sleeps again; so a call never waits for a thread that has nothing of it in hand.
#include "core/runtime/thread_pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>

#include "core/runtime/fp_control.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvg {
namespace {

// state_: bits 0..11 the workers in the job, bit 12 open, bits 13..31 the number of the job. That
// number wraps around; a worker that sleeps through exactly that many jobs leaves one to the others.
constexpr uint32_t kOpen = 1u << 12;
constexpr uint32_t kInside = kOpen - 1;
constexpr uint32_t kNextJob = kOpen << 1;
static_assert(ThreadPool::kMaxThreads <= kInside);

constexpr uint32_t JobOf(uint32_t state) { return state / kNextJob; }

// About 20 to 50 microseconds: longer than the pause between the layers of a small model, too short
// to be seen in an idle process.
constexpr uint32_t kSpins = 1000;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(uint32_t threads) : owner_(getpid()) {
  threads = std::min(threads, kMaxThreads);
  // With more threads than processors a thread that spins keeps another from its work.
  if (std::thread::hardware_concurrency() > threads) spins_ = kSpins;
  threads_.reserve(threads);
  // Signals are the host's business: its handlers shall run on its own threads. Those that a fault
  // raises on the thread itself stay open, for crash reporters.
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) {
    sigdelset(&blocked, fault);
  }
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  try {
    for (uint32_t i = 0; i < threads; ++i) {
      threads_.emplace_back(&ThreadPool::WorkerMain, this, i + 1);
    }
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    StopAndJoin();
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ThreadPool::~ThreadPool() { StopAndJoin(); }

void ThreadPool::StopAndJoin() {
  if (getpid() != owner_) {
    for (std::thread& thread : threads_) thread.detach();
    return;
  }
  stop_.store(true, std::memory_order_relaxed);
  state_.fetch_add(kNextJob, std::memory_order_release);
  state_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

ThreadPool::Lease ThreadPool::Acquire() {
  if (threads_.empty() || leased_.exchange(true, std::memory_order_acquire)) return Lease(nullptr);
  return Lease(this);
}

ops::Parallel ThreadPool::Lease::parallel() const {
  if (pool_ == nullptr) return {nullptr, 1, RunInline};
  return {pool_, pool_->threads() + 1, RunShared};
}

void ThreadPool::RunInline(void*, uint64_t n, Task task, void* ctx) {
  for (uint64_t i = 0; i < n; ++i) task(ctx, i, 0);
}

void ThreadPool::RunShared(void* self, uint64_t n, Task task, void* ctx) {
  if (n <= 1) return RunInline(nullptr, n, task, ctx);
  ThreadPool& pool = *static_cast<ThreadPool*>(self);
  pool.task_ = task;
  pool.ctx_ = ctx;
  pool.n_ = n;
  pool.fp_control_ = GetFpControl();
  pool.next_.store(0, std::memory_order_relaxed);
  // Nobody is inside and the job is closed, so these are plain steps of one number. The release
  // shows the fields above to whoever enters.
  pool.state_.fetch_add(kNextJob | kOpen, std::memory_order_release);
  if (n - 1 >= pool.threads_.size()) {
    pool.state_.notify_all();
  } else {
    for (uint64_t i = 1; i < n; ++i) pool.state_.notify_one();
  }
  pool.Work(0);
  pool.state_.fetch_and(~kOpen, std::memory_order_relaxed);
  for (uint32_t spin = 0;; ++spin) {
    const uint32_t left = pool.left_.load(std::memory_order_acquire);
    // The acquire shows what the workers did before they left.
    if ((pool.state_.load(std::memory_order_acquire) & kInside) == 0) return;
    if (spin < pool.spins_) {
      Pause();
    } else {
      pool.left_.wait(left, std::memory_order_acquire);
    }
  }
}

void ThreadPool::Work(uint32_t worker) {
  for (;;) {
    const uint64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= n_) return;
    task_(ctx_, i, worker);
  }
}

void ThreadPool::WorkerMain(uint32_t worker) {
  char name[16];
  snprintf(name, sizeof(name), "kvgear-%u", worker);
  pthread_setname_np(pthread_self(), name);

  uint32_t last_job = 0;
  uint32_t spin = 0;
  for (;;) {
    uint32_t state = state_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if ((state & kOpen) != 0 && JobOf(state) != last_job) {
      if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire,
                                        std::memory_order_relaxed)) {
        continue;
      }
      last_job = JobOf(state);
      SetFpControl(fp_control_);
      Work(worker);
      const uint32_t before = state_.fetch_sub(1, std::memory_order_acq_rel);
      if ((before & (kOpen | kInside)) == 1) {
        left_.fetch_add(1, std::memory_order_release);
        left_.notify_one();
      }
      spin = 0;
    } else if (spin < spins_) {
      ++spin;
      Pause();
    } else {
      state_.wait(state, std::memory_order_acquire);
    }
  }
}

}  // namespace kvg
