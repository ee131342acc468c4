package kvgear

import (
	"errors"

	"kvgear.org/kvgear/internal/raw"
)

// Error is a failure of a call.
type Error struct {
	Op      string // the function of the C interface that failed, such as "kvg_cache_attend"
	Status  Status // what kind of failure; never OK
	Message string // what is wrong, and what to change
	Cause   error  // what the reader or writer said that ended a transfer; else nil
}

// Error returns the operation and the sentence.
func (e *Error) Error() string {
	text := "kvgear: " + e.Op + ": " + e.Message
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap returns the status, so that errors.Is(err, ErrInvalid) holds, and the cause if there is one.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Status}
	}
	return []error{e.Status, e.Cause}
}

// Error returns the name of the status in C. It makes a Status fit for errors.Is and errors.As.
//
// From kvgear.h, kvg_status_string:
//
//	Returns the name of a status, such as "KVG_E_INVALID"; a static string, never NULL.
func (s Status) Error() string { return raw.KvgStatusString(int32(s)) }

// String is the same as Error.
func (s Status) String() string { return s.Error() }

// wrap makes an *Error of what the raw layer returned.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var e *raw.Error
	if errors.As(err, &e) {
		return &Error{Op: op, Status: Status(e.Code), Message: e.Message}
	}
	return err
}

func invalid(op, message string) error { return &Error{Op: op, Status: ErrInvalid, Message: message} }
