/*
 * How fast the link of a connection is: how fast the kernel gets rid of what was sent, for as long as it has
 * something to get rid of. That there was something all the time is certain when there still is as the
 * next bytes are to be sent. What leaves at once tells nothing about the link.
 */
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "transport/server_internal.h"

#define BACKLOG_BYTES	 (64u << 10) /* less may be on its way only */
#define BUSY_NS_MIN	 (50 * NS_PER_MS)
#define BUSY_BYTES_MIN	 (512u << 10)
#define MEASURE_KEPT_NS	 (10 * NS_PER_S) /* an answer that was compressed may leave no backlog */

void link_look(struct connection *c)
{
	struct instant now = c->loop->now;
	uint64_t ns, delivered;
	int queued = 0;

	if (c->sent_bytes == 0 || ioctl(c->fd, SIOCOUTQ, &queued) < 0)
		return;
	if (queued < (int)BACKLOG_BYTES || (uint64_t)queued > c->sent_bytes) {
		c->busy = false;
		return;
	}
	delivered = c->sent_bytes - (uint64_t)queued;
	if (!c->busy) {
		c->busy = true;
		c->busy_since = now;
		c->busy_from = delivered;
		return;
	}
	ns = instant_until(c->busy_since, now).ns;
	if (ns < BUSY_NS_MIN || delivered - c->busy_from < BUSY_BYTES_MIN)
		return;
	c->link_rate = (delivered - c->busy_from) * 1000 / (ns / NS_PER_MS);
	c->link_measured = c->busy_since = now;
	c->busy_from = delivered;
}

uint64_t link_rate(const struct connection *c)
{
	if (c->link_rate == 0 ||
	    instant_until(c->link_measured, c->loop->now).ns > MEASURE_KEPT_NS)
		return 0;
	return c->link_rate;
}
