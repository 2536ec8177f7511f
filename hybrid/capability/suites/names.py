"""Names of people and towns that records are made of (common names, CC0). Does not: make records."""

from __future__ import annotations

from hybrid.capability.suites.base import words

FIRST_NAMES = words(
    "Ada Amir Anna Beth Boris Carla Chen Dana Diego Elsa Emil Fatou Femi Greta Hana Hugo Ines Ivan Jana Jonas Kofi "
    "Lena Luis Mara Milo Nadia Nils Olga Omar Petra Quinn Rosa Sami Tara Theo Uma Vera Wanda Yusuf Zoe"
)
LAST_NAMES = words(
    "Adler Baker Brook Castro Dahl Dube Engel Farah Fisher Gomez Haas Ibsen Jansen Kaya Klein Lopez Marsh Meyer Novak "
    "Okafor Olsen Park Petrov Quist Reyes Rossi Sato Silva Stone Tanaka Usman Varga Weber Wolf Young Zhang"
)
TOWNS = words(
    "Aarhus Bergen Bilbao Bremen Cork Dakar Davos Delft Fez Ghent Graz Izmir Kobe Leeds Lille Lyon Malmo Miami Mumbai "
    "Nice Oran Osaka Parma Perth Pisa Porto Quebec Seville Tartu Turin Utrecht Varna York Zagreb"
)
