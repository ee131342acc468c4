// The worker threads of a runtime, and how one call borrows them.
//
// Called by core/runtime (owner) and core/cache (one lease for each call that has work to share).
//
//   ThreadPool::Lease lease = runtime.pool().Acquire();
//   const ops::Parallel parallel = lease.parallel();   // valid while the lease lives
//   table.attend(&args, &parallel);
//
// The pool serves one call at a time. A call that finds it taken, by another thread or by a call
// further up its own stack, is not made to wait: its Parallel has one worker, the calling thread.
#ifndef KVGEAR_CORE_RUNTIME_THREAD_POOL_H_
#define KVGEAR_CORE_RUNTIME_THREAD_POOL_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/ops.h"

namespace kvg {

class ThreadPool {
 public:
  static constexpr uint32_t kMaxThreads = 1024;

  // Starts `threads` workers (at most kMaxThreads) beside the caller's thread. If one cannot be
  // started, ends the others and throws what std::thread threw (std::system_error, std::bad_alloc).
  explicit ThreadPool(uint32_t threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  // No lease may be alive. After fork() the child has none of the workers: calls there are served
  // by the calling thread alone, and the destructor does not wait for threads that do not exist.
  ~ThreadPool();

  uint32_t threads() const { return static_cast<uint32_t>(threads_.size()); }

  class Lease {
   public:
    Lease(Lease&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)) {}
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (pool_ != nullptr) pool_->leased_.store(false, std::memory_order_release);
    }

    // Tasks must not throw, and must not call run() of the Parallel that runs them. run() itself
    // neither throws nor allocates; it is for the thread that holds the lease.
    ops::Parallel parallel() const;

   private:
    friend class ThreadPool;
    explicit Lease(ThreadPool* pool) : pool_(pool) {}
    ThreadPool* pool_;  // nullptr = the calling thread alone
  };

  // Never waits and never fails.
  Lease Acquire();

 private:
  using Task = void (*)(void* ctx, uint64_t i, uint32_t worker);

  static void RunInline(void* self, uint64_t n, Task task, void* ctx);
  static void RunShared(void* self, uint64_t n, Task task, void* ctx);
  void Work(uint32_t worker);
  void WorkerMain(uint32_t worker);
  void StopAndJoin();

  // One job at a time, described by these four. Written by the lease holder while no worker is in a
  // job, read by workers that have entered it.
  Task task_ = nullptr;
  void* ctx_ = nullptr;
  uint64_t n_ = 0;
  uint64_t fp_control_ = 0;

  // The number of the job, whether workers may still enter it, and how many are in it: see the
  // constants in thread_pool.cc. 32 bits, so that waiting on it is one futex.
  alignas(64) std::atomic<uint32_t> state_{0};
  std::atomic<bool> stop_{false};
  // Counts the times that the last worker left a closed job; the lease holder sleeps on it.
  alignas(64) std::atomic<uint32_t> left_{0};
  alignas(64) std::atomic<uint64_t> next_{0};  // first task that nobody has claimed
  alignas(64) std::atomic<bool> leased_{false};

  uint32_t spins_ = 0;  // looks at state_ before a thread goes to sleep
  pid_t owner_ = 0;     // the process that has the workers
  std::vector<std::thread> threads_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_RUNTIME_THREAD_POOL_H_
