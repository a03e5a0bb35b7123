#include "prefetch/roots.h"

void roots_begin(struct roots *r)
{
	for (unsigned i = 0; i < ROOTS_MAX; i++)
		r->items[i].named = false;
}

static struct slice fitting(struct slice below)
{
	size_t length = below.length;

	if (length <= ROOT_BELOW_BYTES)
		return below;
	/* What is behind the last slash may be cut: it goes, too. */
	for (length = ROOT_BELOW_BYTES + 1; length > 0 && below.data[length - 1] != '/'; length--)
		;
	return (struct slice){ below.data, length > 0 ? length - 1 : 0 };
}

void roots_name(struct roots *r, uint64_t directory, struct slice below, uint64_t stamp)
{
	struct root *place = NULL;

	below = fitting(below);
	for (unsigned i = 0; i < ROOTS_MAX; i++) {
		struct root *root = &r->items[i];

		if (root->number == 0) {
			place = place ? place : root;
		} else if (root->directory == directory && root->stamp == stamp &&
			   root->below_length == below.length &&
			   (below.length == 0 || memcmp(root->below, below.data, below.length) == 0)) {
			root->named = true;
			return;
		}
	}
	if (!place) {
		r->dropped++;
		return;
	}
	*place = (struct root){
		.number = ++r->numbers,
		.directory = directory,
		.stamp = stamp,
		.named = true,
		.below_length = (uint8_t)below.length,
	};
	if (below.length > 0)
		memcpy(place->below, below.data, below.length);
}

void roots_end(struct roots *r)
{
	for (unsigned i = 0; i < ROOTS_MAX; i++)
		if (!r->items[i].named)
			r->items[i].number = 0;
}

const struct root *roots_next(struct roots *r)
{
	struct root *next = NULL;

	for (unsigned i = 0; i < ROOTS_MAX; i++) {
		struct root *root = &r->items[i];

		if (root->number && !root->walked && (!next || root->number < next->number))
			next = root;
	}
	if (next)
		next->walked = true;
	return next;
}

bool roots_stands(const struct roots *r, uint64_t number)
{
	for (unsigned i = 0; i < ROOTS_MAX; i++)
		if (number && r->items[i].number == number)
			return true;
	return false;
}
