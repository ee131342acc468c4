package kvgear

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Some tests run in a process of their own, with testdata/preload.c between them and the library.
func inPreloaded(t *testing.T, env ...string) bool {
	t.Helper()
	if os.Getenv("KVGEAR_TEST_PRELOADED") == t.Name() {
		return true
	}
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	library := filepath.Join(t.TempDir(), "preload.so")
	build := exec.Command(compiler, "-shared", "-fPIC", "-Iinternal/raw", "testdata/preload.c", "-o", library, "-ldl", "-lpthread")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(append(os.Environ(), "LD_PRELOAD="+library, "KVGEAR_TEST_PRELOADED="+t.Name()), env...)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func TestOtherABI(t *testing.T) {
	if !inPreloaded(t, "KVGEAR_TEST_ABI=7 9") {
		return
	}
	for _, err := range []error{second(NewRuntime(Options{})), second(NewPlan(shape, "fp16")), second(CanonicalRecipe("fp16"))} {
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "serves ABI versions 7 to 9, and this package needs 1") {
			t.Error(err)
		}
	}
}

func TestLogFromForeignThreads(t *testing.T) {
	if !inPreloaded(t) {
		return
	}
	rt, _, _ := open(t, Options{}, "fp16")
	lines := 0
	ok(t, rt.SetLog(func(level LogLevel, message string) {
		if want := fmt.Sprintf("line %d of 100", lines); message != want || level != LogLevel(lines%4) {
			t.Errorf("%v %q, not %q", level, message, want)
		}
		lines++
		runtime.GC() // what the sink refers to must survive
		if lines == 50 {
			panic("ends this call of the sink, nothing else")
		}
	}))
	for round := 1; round <= 3; round++ {
		lines = 0
		must[uint64](t)(rt.Memory())
		if lines != 100 {
			t.Errorf("%d lines", lines)
		}
	}
	other := 0
	ok(t, rt.SetLog(func(LogLevel, string) { other++ }))
	lines = 0
	must[uint64](t)(rt.Memory())
	if other != 100 || lines != 0 {
		t.Error(other, lines)
	}
	ok(t, rt.SetLog(nil))
	must[uint64](t)(rt.Memory())
	if other != 100 {
		t.Error("a removed sink is called")
	}
}

func TestStreamsOnForeignThreads(t *testing.T) {
	if !inPreloaded(t) {
		return
	}
	rt, plan, cache := open(t, Options{}, "fp16")
	x := F32(fill(5*savedTokens*row, 1))
	ok(t, cache.Append(0, x, x))
	for round := 0; round < 3; round++ {
		var data bytes.Buffer
		ok(t, cache.SaveTo(writerFunc(func(p []byte) (int, error) {
			runtime.GC()
			return data.Write(p)
		}), SaveOptions{}))
		back := must[*Cache](t)(rt.LoadCacheFrom(plan, &data, LoadOptions{}))
		if !bytes.Equal(content(t, back), content(t, cache)) {
			t.Error("another cache")
		}
		ok(t, back.Close())
		if err := cache.SaveTo(writerFunc(func([]byte) (int, error) { panic(errOwn) }), SaveOptions{}); !errors.Is(err, ErrIO) || !errors.Is(err, errOwn) {
			t.Error(err)
		}
	}
}
