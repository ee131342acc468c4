// The thread pool: workers spin for a moment, then sleep until the next round of tasks.
#include "threads.h"

#include <system_error>
#include <utility>

#include "refusal.h"

namespace demo {
namespace {

constexpr int kSpins = 2000;

/// Waits until `value` is no longer `old`.
void WaitWhile(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(size_t threads) {
  try {
    for (size_t i = 1; i < threads; ++i) {
      workers_.emplace_back([this, i] { WorkerLoop(i); });
    }
  } catch (const std::system_error& error) {
    Stop();
    Refuse("The system gives this program no ", threads, " threads (", error.what(),
           "); ask for fewer with --threads.");
  }
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  stop_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::TakeTasks(size_t thread) {
  for (;;) {
    const size_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) return;
    try {
      call_(body_, task, thread);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
      next_.store(tasks_, std::memory_order_relaxed);  // the rest is not started
    }
  }
}

void ThreadPool::WorkerLoop(size_t thread) {
  uint32_t seen = 0;
  for (;;) {
    WaitWhile(round_, seen);
    seen = round_.load(std::memory_order_acquire);
    if (stop_) return;
    TakeTasks(thread);
    if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) working_.notify_all();
  }
}

void ThreadPool::RunShared(size_t tasks, Call call, void* body) {
  tasks_ = tasks;
  call_ = call;
  body_ = body;
  next_.store(0, std::memory_order_relaxed);
  working_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  TakeTasks(0);
  for (uint32_t left = working_.load(std::memory_order_acquire); left != 0;
       left = working_.load(std::memory_order_acquire)) {
    WaitWhile(working_, left);
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace demo
