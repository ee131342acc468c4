// Runtime: what the caller asked for is checked here, once, when the runtime is created.
#include "core/runtime/runtime.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "core/runtime/plugin.h"

namespace kvg {
namespace {

// Names the table of operations to use in place of the best one: for tests and for bug reports.
constexpr char kTargetVariable[] = "KVGEAR_CPU_TARGET";

// The longest log line, terminator included; what is longer is cut.
constexpr size_t kMaxLogLine = 512;

// Set while a thread runs a log sink. The library may want to log in a call that the sink makes;
// such a line is dropped, for the sink cannot be entered twice.
thread_local bool in_sink = false;

absl::StatusOr<const ops::Table*> ChooseTable() {
  size_t count = 0;
  const ops::Table* const* tables = ops::CpuTables(&count);
  const char* wanted = std::getenv(kTargetVariable);
  if (wanted == nullptr || *wanted == '\0') return tables[0];
  std::string names;
  for (const ops::Table* table : absl::MakeConstSpan(tables, count)) {
    if (std::strcmp(wanted, table->name) == 0) return table;
    absl::StrAppend(&names, table->name, ", ");
  }
  const ops::Table& reference = ops::ReferenceTable();
  if (std::strcmp(wanted, reference.name) == 0) return &reference;
  return InvalidError("the environment variable ", kTargetVariable, " is \"",
                      absl::CHexEscape(std::string_view(wanted).substr(0, 40)),
                      "\"; on this processor it may be one of ", names, reference.name,
                      ", or not set");
}

// `why` begins with the part that is missing: plugin, driver or device.
absl::Status CudaError(const absl::Status& why) {
  return BackendError("device CUDA was asked for but cannot be had; missing ", why.message());
}

absl::Status CheckDevice(const RuntimeOptions& options) {
  switch (options.device) {
    case DeviceType::kCpu:
      if (options.slabs.device.alloc != nullptr || options.slabs.pinned.alloc != nullptr) {
        return InvalidError("device_allocator or pinned_allocator is set; they are for the device "
                            "CUDA, the CPU takes its memory from allocator");
      }
      if (options.device_id != 0) {
        return InvalidError("device_id is ", options.device_id, "; the CPU has number 0 only");
      }
      return absl::OkStatus();
    case DeviceType::kCuda:
      return absl::OkStatus();
  }
  return UnsupportedError("device ", static_cast<uint32_t>(options.device),
                          " is not known; 0 is the CPU, 1 is CUDA");
}

}  // namespace

Runtime::Runtime(const RuntimeOptions& options, const ops::Table& table)
    : memory_(options.allocator, options.memory_budget),
      resource_(memory_),
      table_(&table),
      pool_(options.threads) {}

absl::StatusOr<std::shared_ptr<Runtime>> Runtime::Create(const RuntimeOptions& options) {
  KVG_RETURN_IF_ERROR(CheckDevice(options));
  if (options.threads > ThreadPool::kMaxThreads) {
    return InvalidError("threads is ", options.threads, "; the most is ", ThreadPool::kMaxThreads);
  }
  if (options.allocator.alloc == nullptr || options.allocator.release == nullptr) {
    return InvalidError("the allocator has no ",
                        options.allocator.alloc == nullptr ? "alloc" : "release",
                        " function; set both, or pass no allocator");
  }
  const absl::StatusOr<const ops::Table*> table = ChooseTable();
  if (!table.ok()) return table.status();
  const ops::Plugin* plugin = nullptr;
  if (options.device == DeviceType::kCuda) {
    const absl::StatusOr<const ops::Plugin*> loaded = LoadCudaPlugin();
    if (!loaded.ok()) return CudaError(loaded.status());
    plugin = *loaded;
  }
  try {
    std::shared_ptr<Runtime> runtime(new Runtime(options, **table));
    if (plugin != nullptr) {
      absl::StatusOr<std::unique_ptr<Device>> device =
          Device::Open(*plugin, options.device_id, runtime->memory_, options.slabs);
      if (!device.ok()) return CudaError(device.status());
      runtime->device_ = *std::move(device);
    }
    return runtime;
  } catch (const std::system_error& e) {
    return BackendError("the system refused to start ", options.threads,
                        " worker threads (", e.what(), "); ask for fewer");
  }
}

void Runtime::SetLog(LogFn fn, void* user) {
  const std::lock_guard<std::mutex> lock(log_mutex_);
  log_ = fn;
  has_log_.store(fn != nullptr, std::memory_order_relaxed);
  log_user_ = user;
}

void Runtime::Log(LogLevel level, std::string_view message) {
  if (in_sink) return;
  // Copied without allocating, so that a line about a lack of memory gets through.
  char line[kMaxLogLine];
  const size_t length = std::min(message.size(), sizeof(line) - 1);
  std::memcpy(line, message.data(), length);
  line[length] = '\0';
  // Held while the sink runs: that is how SetLog knows that the former sink has returned.
  const std::lock_guard<std::mutex> lock(log_mutex_);
  if (log_ == nullptr) return;
  in_sink = true;
  try {
    log_(log_user_, static_cast<uint32_t>(level), line);
  } catch (...) {
    // A sink written in C++ that throws loses its line, nothing else.
  }
  in_sink = false;
}

std::string Runtime::Describe() const {
  const uint32_t threads = pool_.threads();
  std::string text = absl::StrCat(device_ != nullptr ? "cuda " + device_->Describe() + "; " : "",
                                  "cpu ", table_->name, ", ", threads,
                                  threads == 1 ? " worker thread, " : " worker threads, ");
  if (memory_.budget() == 0) return text + "no budget";
  absl::StrAppend(&text, "budget ", memory_.budget(), " bytes");
  return text;
}

}  // namespace kvg
