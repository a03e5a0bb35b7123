/* The wires: what is sent is encoded, and then lost, held, delayed, doubled or overtaken. */
#include "tests/sim/sim.h"

#include <assert.h>

size_t network_encode(struct sim *sim, const struct message *message, const void *bulk,
		      size_t bulk_length, uint8_t *data)
{
	struct writer w = writer_of(data, PACKET_BYTES);
	size_t length;

	message_encode(&w, message);
	length = w.at;
	writer_bytes(&w, bulk, bulk_length);
	if (w.failed)
		sim_fail(sim, "a %s does not fit a packet", message_name(message->type));
	return length;
}

void network_decode(struct sim *sim, const struct packet *packet, struct message *ret_message,
		    struct slice *ret_bulk)
{
	if (message_decode((struct slice){ packet->data, packet->length }, ret_message))
		sim_fail(sim, "a message of our own does not decode");
	*ret_bulk = (struct slice){ packet->data + packet->length, packet->bulk_length };
}

static struct packet *free_packet(struct sim *sim, unsigned *ret_index)
{
	for (unsigned i = 0; i < PACKETS_MAX; i++) {
		unsigned index = sim->packet_next++ % PACKETS_MAX;

		if (!sim->packets[index].used) {
			*ret_index = index;
			return &sim->packets[index];
		}
	}
	sim_fail(sim, "the simulator's packets are used up");
}

static void note_packet(struct sim *sim, const struct packet *packet, const char *fate)
{
	struct message message;
	struct slice bulk;
	char text[320];

	network_decode(sim, packet, &message, &bulk);
	message_print(&message, text, sizeof(text));
	sim_trace(sim, "%s%u %s #%u %s", packet->to_host ? "origin -> host" : "origin <- host",
		  packet->host, fate, packet->id, text);
}

static void put(struct sim *sim, const struct packet *what, uint64_t at)
{
	unsigned index;
	struct packet *packet = free_packet(sim, &index);

	packet->used = true;
	packet->host = what->host;
	packet->to_host = what->to_host;
	packet->on_stream = what->on_stream;
	packet->id = what->id;
	packet->length = what->length;
	packet->bulk_length = what->bulk_length;
	memcpy(packet->data, what->data, (size_t)what->length + what->bulk_length);
	sim_schedule(sim, at, what->to_host ? EVENT_TO_HOST : EVENT_TO_ORIGIN, what->host, index,
		     0);
}

static uint64_t draw_delay(struct sim *sim, const struct link *link)
{
	const struct profile *p = &sim->profile;
	uint64_t delay = rng_between(&sim->rng, p->delay_min, p->delay_max);

	if (sim->phase != PHASE_WILD)
		return delay;
	if (rng_chance(&sim->rng, p->spike))
		delay += rng_below(&sim->rng, p->spike_max);
	if (link->slow_until > sim->now)
		delay += rng_below(&sim->rng, link->slow_by);
	return delay;
}

/* Decides what becomes of `packet`. */
static void send_packet(struct sim *sim, const struct packet *packet)
{
	const struct profile *p = &sim->profile;
	struct link *link = &sim->hosts[packet->host].link;
	uint64_t blocked = packet->to_host ? link->blocked_to_host_until :
					     link->blocked_to_origin_until;
	uint64_t at = sim->now + draw_delay(sim, link);

	for (size_t i = 0; i + 8 <= packet->length; i += 8) {
		uint64_t word;

		memcpy(&word, packet->data + i, 8);
		sim_hash(sim, word);
	}
	if (blocked > sim->now) {
		/* A connection that is cut either breaks or delivers when the wire is back. */
		if (!packet->on_stream && !rng_chance(&sim->rng, p->held)) {
			if (sim->tracing)
				note_packet(sim, packet, "CUT");
			return;
		}
		at += blocked - sim->now;
	} else if (sim->phase == PHASE_WILD && !packet->on_stream &&
		   rng_chance(&sim->rng, p->loss)) {
		if (sim->tracing)
			note_packet(sim, packet, "LOST");
		return;
	}
	if (packet->on_stream) {
		/* One stream keeps its order. */
		if (at < link->stream_last_at)
			at = link->stream_last_at;
		link->stream_last_at = at;
	}
	if (sim->tracing)
		note_packet(sim, packet, "sends");
	put(sim, packet, at);
	if (!packet->to_host && sim->phase == PHASE_WILD && rng_chance(&sim->rng, p->duplicate))
		put(sim, packet, at + rng_below(&sim->rng, p->duplicate_delay_max));
}

void network_send_bytes(struct sim *sim, unsigned host, bool to_host, bool on_stream, uint32_t id,
			const uint8_t *data, size_t length, size_t bulk_length)
{
	struct packet packet;

	packet.host = (uint8_t)host;
	packet.to_host = to_host;
	packet.on_stream = on_stream;
	packet.id = id;
	packet.length = (uint16_t)length;
	packet.bulk_length = (uint16_t)bulk_length;
	memcpy(packet.data, data, length + bulk_length);
	send_packet(sim, &packet);
}

void network_send(struct sim *sim, unsigned host, bool to_host, bool on_stream, uint32_t id,
		  const struct message *message, const void *bulk, size_t bulk_length)
{
	struct packet packet;

	packet.host = (uint8_t)host;
	packet.to_host = to_host;
	packet.on_stream = on_stream;
	packet.id = id;
	packet.length = (uint16_t)network_encode(sim, message, bulk, bulk_length, packet.data);
	packet.bulk_length = (uint16_t)bulk_length;
	send_packet(sim, &packet);
}
