// What every command of kvgear-plan shares: flags, threads, and how plan files begin and end. Used by the
// files of the commands.
#ifndef KVGEAR_TOOLS_PLAN_SHARED_H_
#define KVGEAR_TOOLS_PLAN_SHARED_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "core/model/plan_writer.h"
#include "model.h"

ABSL_DECLARE_FLAG(std::string, model);
ABSL_DECLARE_FLAG(std::vector<std::string>, calibrate);
ABSL_DECLARE_FLAG(uint32_t, max_items);
ABSL_DECLARE_FLAG(std::string, out);

namespace kvgplan {

/// How many threads --threads asks for.
unsigned Threads();

/// Whether a file of --calibrate holds exams; the others hold text.
bool HoldsExams(const std::string& file);

/// A plan file for this model, to be filled.
kvg::PlanWriter BeginPlan(const demo::Model& model, const std::string& recipes);

/// Writes it, or refuses with the reason.
void EndPlan(const kvg::PlanWriter& writer, const std::string& file);

}  // namespace kvgplan

#endif  // KVGEAR_TOOLS_PLAN_SHARED_H_
