// A small pool of threads that share out numbered tasks. Used by matrix products, prefill and the
// lanes of a decode step.
#ifndef KVGEAR_EXAMPLES_DEMO_THREADS_H_
#define KVGEAR_EXAMPLES_DEMO_THREADS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace demo {

class ThreadPool {
 public:
  /// `threads` counts the caller's thread, which works too; at least 1.
  explicit ThreadPool(size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  size_t threads() const { return workers_.size() + 1; }

  /// Calls body(task, thread) for every task below `tasks`, in any order, thread < threads(), and
  /// returns when all are done. The first exception is thrown here. Not to be nested.
  template <class Body>
  void Run(size_t tasks, Body&& body) {
    if (workers_.empty() || tasks <= 1) {
      for (size_t task = 0; task < tasks; ++task) body(task, size_t{0});
      return;
    }
    RunShared(
        tasks, [](void* b, size_t task, size_t thread) { (*static_cast<Body*>(b))(task, thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Call = void (*)(void* body, size_t task, size_t thread);

  void Stop();
  void RunShared(size_t tasks, Call call, void* body);
  void TakeTasks(size_t thread);
  void WorkerLoop(size_t thread);

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> round_{0};    // goes up when there is work
  std::atomic<uint32_t> working_{0};  // workers that have not finished this round
  std::atomic<size_t> next_{0};
  size_t tasks_ = 0;
  Call call_ = nullptr;
  void* body_ = nullptr;
  bool stop_ = false;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_THREADS_H_
