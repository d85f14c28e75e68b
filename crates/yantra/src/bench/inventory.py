"""Stock of a small shop: what there is, what it costs, and what must be ordered."""

import csv
import json
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path


@dataclass
class Item:
    """One kind of goods."""

    sku: str
    name: str
    count: int
    price_cents: int
    reorder_below: int = 5
    last_counted: date = field(default_factory=date.today)

    def value_cents(self) -> int:
        return self.count * self.price_cents

    def must_be_ordered(self) -> bool:
        return self.count < self.reorder_below


class Inventory:
    """All items by their stock-keeping unit."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.log: list[str] = []

    def add(self, item: Item) -> None:
        if item.sku in self.items:
            raise ValueError(f"the item {item.sku} is there already")
        self.items[item.sku] = item
        self.log.append(f"added {item.sku}: {item.count} of {item.name}")

    def remove(self, sku: str, count: int) -> Item:
        item = self.items[sku]
        if count > item.count:
            raise ValueError(f"only {item.count} of {sku} are left, {count} were asked for")
        item.count -= count
        self.log.append(f"removed {sku}: {count} of {item.name}")
        return item

    def total_cents(self) -> int:
        return sum(item.value_cents() for item in self.items.values())

    def orders(self) -> list[Item]:
        return sorted(
            (item for item in self.items.values() if item.must_be_ordered()),
            key=lambda item: item.count,
        )

    def save(self, path: Path) -> None:
        rows = [
            {"sku": item.sku, "name": item.name, "count": item.count, "price_cents": item.price_cents}
            for item in self.items.values()
        ]
        path.write_text(json.dumps(rows, indent=2))


def load(path: Path) -> Inventory:
    inventory = Inventory()
    with path.open() as file:
        for row in csv.DictReader(file):
            inventory.add(Item(row["sku"], row["name"], int(row["count"]), int(row["price_cents"])))
    return inventory


def report(inventory: Inventory) -> str:
    lines = [f"{item.name:<20} {item.count:>6}" for item in inventory.items.values()]
    lines.append(f"total: {inventory.total_cents() / 100:.2f}")
    for item in inventory.orders():
        lines.append(f"order {item.name}: {item.count} left")
    return "\n".join(lines)
