#include "lease/status.h"

#include <stddef.h>

struct row {
	uint16_t number;
	int http;
	int error;
	const char *name;
	const char *text;
};

#define ROW(name, number, http, error, text) { number, http, error, #name, text },
static const struct row rows[] = { LEASE_STATUSES(ROW) };
#undef ROW

#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

static const struct row *find(uint16_t status)
{
	for (unsigned i = 0; i < ROW_COUNT; i++)
		if (rows[i].number == status)
			return &rows[i];
	return NULL;
}

int status_errno(uint16_t status)
{
	const struct row *row = find(status);

	return row ? row->error : EIO;
}

uint16_t status_of_errno(int error)
{
	/* The first row wins: POSIX errors stand before the protocol's own. */
	for (unsigned i = 0; i < ROW_COUNT; i++)
		if (rows[i].error == error)
			return rows[i].number;
	return STATUS_IO;
}

int status_http(uint16_t status)
{
	const struct row *row = find(status);

	return row ? row->http : 500;
}

const char *status_text(uint16_t status)
{
	const struct row *row = find(status);

	return row ? row->text : "unknown status";
}

const char *status_name(uint16_t status)
{
	const struct row *row = find(status);

	return row ? row->name : "UNKNOWN";
}
