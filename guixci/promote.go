package guixci

import (
	"context"

	"github.com/genenetwork/guixci/channel"
	"github.com/genenetwork/guixci/container"
)

// Descends answers for a [container.Revision] whether a channel goes forward, from the
// mirrors, which fetch what they lack. A channel that has another URL now is
// asked for there: a mirror that has moved has the same history.
func Descends(repos *channel.Repositories) func(context.Context, container.Channel, container.Channel) (bool, error) {
	return func(ctx context.Context, old, new container.Channel) (bool, error) {
		c := channel.Channel{Name: new.Name, URL: new.URL}
		return repos.IsAncestor(ctx, c, channel.Commit(old.Commit), channel.Commit(new.Commit))
	}
}

// Promote makes the store item that is confirmed in p.From the running generation of d; what
// Descends is to say, the pipeline's mirrors do.
func (p *Pipeline) Promote(ctx context.Context, d *container.Deployment, promotion container.Promotion) (*container.Generation, error) {
	promotion.Descends = Descends(p.repos)
	return p.Deployment(d).Promote(ctx, promotion)
}
