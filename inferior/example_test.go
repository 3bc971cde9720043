package inferior_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/genenetwork/guixci/inferior"
	"github.com/genenetwork/guixci/inferior/inferiortest"
	"github.com/genenetwork/guixci/inferior/sexp"
)

func ExampleSession_Eval() {
	// With a Guix at hand: inferior.Start(ctx, inferior.Options{Program: profile.Guix()}).
	script := inferiortest.Script{Answer: func(expr sexp.Value) string {
		if expr.String() == `(car "x")` {
			return inferiortest.Exception("wrong-type-arg", sexp.String("car"),
				sexp.String("Wrong type (expecting ~A): ~S"), sexp.L(sexp.String("pair"), sexp.String("x")))
		}
		return inferiortest.Value(sexp.Int(42))
	}}
	ctx := context.Background()
	s, err := inferior.Attach(ctx, script.Pipe(), inferior.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()

	v, err := s.Eval(ctx, sexp.L(sexp.Symbol("*"), sexp.Int(6), sexp.Int(7)))
	fmt.Println(v, err)

	_, err = s.Eval(ctx, sexp.L(sexp.Symbol("car"), sexp.String("x")))
	var e *inferior.Exception
	fmt.Println(errors.As(err, &e), err)
	// Output:
	// 42 <nil>
	// true wrong-type-arg: Wrong type (expecting pair): "x"
}
